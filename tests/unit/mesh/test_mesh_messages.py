import pytest

from fedmesh.errors import DecodeError
from fedmesh.mesh.membership.comparing import differences, pages, summaries
from fedmesh.mesh.membership.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingReq,
    States,
    Summary,
    decode,
    encode,
)
from fedmesh.mesh.membership.statements import MAX_STATEMENT_BYTES
from fedmesh.wire import dumps

GOLDEN = {
    Ping(7, (b"s",)): "8401000781 4173",
    Ack((1 << 32) - 1): "8401011affffffff80",
    PingReq(3, "bert"): "850102036462657274 80",
    Nack(9): "83010309",
    Gossip((b"s", b"t")): "83010482 4173 4174",
    Summary("", "bert", (("anna", 5, 0), ("bert", 6, 2)), (b"s",)): (
        "86010560 6462657274 86 64616e6e61 05 00 6462657274 06 02 81 4173"
    ),
    States((b"s",), ("anna",)): "840106 81 4173 81 64616e6e61",
}


@pytest.mark.parametrize("message", GOLDEN, ids=lambda message: type(message).__name__)
def test_the_bytes_of_each_message(message):
    assert encode(message) == bytes.fromhex(GOLDEN[message])
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "plain",
    [
        [],
        {},
        [2, 0, 1, []],
        [True, 0, 1, []],
        [1, 7, 1, []],
        [1, True, 1, []],
        [1, -1, 1, []],
        [1, 0, 1],
        [1, 0, 1, [], []],
        [1, 0, -1, []],
        [1, 0, 1 << 32, []],
        [1, 0, True, []],
        [1, 0, 1, b""],
        [1, 0, 1, ["text"]],
        [1, 0, 1, [bytes(MAX_STATEMENT_BYTES + 1)]],
        [1, 4, [b""] * 513],
        [1, 2, 1, "", []],
        [1, 2, 1, "Bert", []],
        [1, 5, None, "", [], []],
        [1, 5, "", "", ["anna", 1], []],
        [1, 5, "", "", ["anna", 0, 0], []],
        [1, 5, "", "", ["anna", 1, 4], []],
        [1, 5, "", "", ["anna", 1, True], []],
        [1, 5, "", "", [["anna", 1, 1]], []],
        [1, 5, "", "", ["", 1, 1], []],
        [1, 6, [], [""]],
        [1, 6, [], ["anna"] * 513],
    ],
)
def test_what_no_sender_writes_is_refused(plain):
    with pytest.raises(DecodeError):
        decode(dumps(plain))


def test_a_message_is_one_frame():
    with pytest.raises(DecodeError, match="limit"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))


def test_every_message_fits_whatever_the_mesh_holds():
    names = [f"{number:04}".ljust(63, "x") for number in range(1024)]
    view = dict.fromkeys(names, ((1 << 62) - 1, 2))
    own = bytes(MAX_STATEMENT_BYTES)
    messages = list(summaries(view, own))
    assert sorted(row[0] for message in messages for row in message.rows) == names
    proof = [own] * 5
    answers = list(pages(names, names, lambda _name: proof))
    assert sum(len(message.statements) for message in answers) == 5 * 1024
    sizes = [len(encode(message)) for message in messages + answers]
    assert max(sizes) <= MAX_MESSAGE_BYTES
    assert all(decode(encode(message)) == message for message in messages + answers)


def test_two_views_are_compared_within_the_range_of_a_summary():
    mine = {"a": (1, 0), "b": (5, 0), "c": (2, 2), "d": (9, 9), "e": (1, 0)}
    theirs = Summary("a", "d", (("b", 4, 3), ("c", 2, 1), ("cc", 1, 0), ("d", 9, 9), ("zz", 7, 0)))
    assert differences(mine, theirs) == (["b", "c"], ["cc"])
    assert differences(mine, Summary("", "", (("e", 1, 1),))) == (["a", "b", "c", "d"], ["e"])
