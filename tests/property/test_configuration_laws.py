"""A party's name means the same in a configuration, which does not load cryptography, as in a certificate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedmesh.configuration.values import PartyName
from fedmesh.errors import IdentityError
from fedmesh.identity.names import checked_id

ADAPTER = TypeAdapter(PartyName)


@given(st.one_of(st.text(max_size=70), st.from_regex(r"[a-z0-9._-]{1,65}", fullmatch=True)))
def test_a_name_of_a_party_is_one_of_an_identity(text):
    try:
        checked_id(text)
    except IdentityError:
        with pytest.raises(ValidationError):
            ADAPTER.validate_python(text)
    else:
        assert ADAPTER.validate_python(text) == text
