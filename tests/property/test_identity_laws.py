"""Laws of tokens, names and the time floor."""

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import FedMeshError, IdentityError
from fedmesh.identity import Name, TimeFloor, Token

IDS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)
TIMES = st.integers(0, 1 << 33)


@given(IDS, IDS, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.sampled_from(["", "h:1"]))
def test_a_token_is_what_its_text_says(mesh, device, secret, root, address):
    token = Token(Name(mesh, device), secret, root, address)
    assert Token.parse(token.text) == token
    assert Token.parse(f" {token.text}\n") == token


@given(st.text(max_size=200) | st.text(max_size=200).map("fedmesh-".__add__))
def test_any_text_is_a_token_or_an_error_of_ours(text):
    with suppress(FedMeshError):
        assert Token.parse(text).text == text.strip()


@given(IDS, IDS)
def test_a_name_is_what_its_uri_says(mesh, device):
    assert Name.parse(Name(mesh, device).uri) == Name(mesh, device)


@given(st.text(max_size=100) | st.text(max_size=80).map("fedmesh://home/".__add__))
def test_any_uri_is_one_name_or_none(uri):
    with suppress(IdentityError):
        assert Name.parse(uri).uri == uri


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["now", "prove", "restart"]), TIMES), max_size=12))
def test_the_floor_never_decreases_and_is_at_most_a_day_beyond_what_was_proved(steps):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "floor"
        floor, last, proved = TimeFloor.create(path), 0, 0
        for step, time in steps:
            if step == "now":
                assert floor.now(float(time)) >= max(last, time)
            elif step == "prove":
                proved = max(proved, time)
                floor.prove(time)
            else:
                floor = TimeFloor(path)
            assert max(last, proved) <= floor.floor <= proved + 86_400
            assert floor.now(0.0) == floor.floor
            last = floor.floor
