import pytest

from fedmesh.errors import IdentityError
from fedmesh.identity.names import checked_id, is_id

NONE = ["", "a/b", "+", "#", "a+b", "$sys", ".", "..", "-a", "a-", "a b", "a\n", "é", "A", "device-A", "x" * 64]


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_name(name):
    assert not is_id(name)
    with pytest.raises(IdentityError, match="is no name of a device") as refused:
        checked_id(name)
    assert refused.value.code == "name"


@pytest.mark.parametrize("name", ["a", "device-1", "pi.4_kitchen", "x" * 63])
def test_what_is_a_name(name):
    assert checked_id(name) == name
