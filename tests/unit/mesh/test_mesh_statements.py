import pytest
from membership_worlds import MESH, public, signer

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.mesh.membership.statements import MAX_STATEMENT_BYTES, State, is_signed, read_statement
from fedmesh.wire import dumps

ANNA = signer("anna")


def test_an_alive_says_where_its_subject_is_and_what_it_has():
    statement = ANNA.alive(7, ["10.0.0.5:7946", "[fe80::1%eth0]:7946"], "digits-12")
    read = read_statement(statement.raw)
    assert read == statement
    assert (read.state, read.subject, read.incarnation, read.author) == (State.ALIVE, "anna", 7, "anna")
    assert (read.addresses, read.model) == (("10.0.0.5:7946", "[fe80::1%eth0]:7946"), "digits-12")
    assert is_signed(read.raw, MESH, public("anna"))


def test_an_accusation_is_its_accusers():
    read = read_statement(ANNA.accuse(State.SUSPECT, "bert", 3).raw)
    assert (read.state, read.subject, read.incarnation, read.author) == (State.SUSPECT, "bert", 3, "anna")
    assert read.is_accusation


def test_a_signature_is_good_in_one_mesh_under_one_key_and_for_one_body():
    raw = ANNA.alive(7, [], "").raw
    assert not is_signed(raw, "other", public("anna"))
    assert not is_signed(raw, MESH, public("bert"))
    assert not is_signed(raw, MESH, b"no key")
    assert not is_signed(raw[:64] + ANNA.alive(8, [], "").raw[64:], MESH, public("anna"))


def test_the_longest_statement_fits():
    longest = signer("a" * 63).alive((1 << 62) - 1, ["a" * 80] * 4, "m" * 80)
    assert len(longest.raw) <= MAX_STATEMENT_BYTES


@pytest.mark.parametrize(
    ("addresses", "model"),
    [(["a" * 81], ""), (["a b"], ""), (["a"] * 5, ""), ([""], ""), ([], "m" * 81), ([], "zwölf"), ([], "a b")],
)
def test_what_cannot_be_announced_is_refused_at_its_source(addresses, model):
    with pytest.raises(ConfigError, match="cannot be announced"):
        ANNA.alive(1, addresses, model)


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        [0, "anna", 1],
        [0, "anna", 0, [], ""],
        [0, "anna", 1 << 62, [], ""],
        [0, "anna", True, [], ""],
        [False, "anna", 1, [], ""],
        [0, "Anna", 1, [], ""],
        [0, "anna", 1, [7], ""],
        [0, "anna", 1, [], None],
        [0, "anna", 1, [], "", "more"],
        [1, "anna", 1],
        [1, "anna", 1, "anna"],
        [2, "anna", 1, ""],
        [3, "anna", 1, "bert"],
        [4, "anna", 1],
        [-1, "anna", 1],
    ],
)
def test_what_is_no_statement_is_refused(content):
    with pytest.raises(DecodeError):
        read_statement(bytes(64) + dumps(content))


@pytest.mark.parametrize("raw", [b"", bytes(64), bytes(65), bytes(MAX_STATEMENT_BYTES + 1)])
def test_a_statement_has_a_length(raw):
    with pytest.raises(DecodeError):
        read_statement(raw)
