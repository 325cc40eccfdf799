"""The bytes of what neighbours say about models: added to, never edited."""

import pytest

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.mesh.swarm import Settings
from fedmesh.mesh.swarm.messages import (
    MAX_CHUNKS,
    MAX_MESSAGE_BYTES,
    Announce,
    Bits,
    Cancel,
    Piece,
    Refusal,
    Request,
    decode,
    encode,
)
from fedmesh.wire import dumps

HASH = bytes(range(32))
GOLDEN = {
    Announce(b"pointer"): "83010047706f696e746572",
    Bits(
        HASH, 10, 0b10_0000_0011, True
    ): "8601015820000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0a420302f5",
    Request(7, "metadata/timestamp.json", 0, 16385): "86010207776d657461646174612f74696d657374616d702e6a736f6e00194001",
    Piece(7, 3, b"abc"): "850103070343616263",
    Refusal(7, "unknown"): "8401040767756e6b6e6f776e",
    Cancel(7): "83010507",
}


@pytest.mark.parametrize("message", GOLDEN, ids=lambda message: type(message).__name__)
def test_the_bytes_of_each_message(message):
    assert encode(message).hex() == GOLDEN[message]
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "plain",
    [
        [],
        {},
        [2, 5, 7],
        [True, 5, 7],
        [1, 6, 7],
        [1, True, 7],
        [1, -1, 7],
        [1, 5],
        [1, 5, 7, 7],
        [1, 5, -1],
        [1, 5, 1 << 32],
        [1, 5, True],
        [1, 0, "text"],
        [1, 0, bytes(257)],
        [1, 1, bytes(31), 8, b"\0", True],
        [1, 1, HASH, 0, b"", True],
        [1, 1, HASH, MAX_CHUNKS + 1, bytes(2049), True],
        [1, 1, HASH, True, b"\0", True],
        [1, 1, HASH, 8, b"\0\0", True],
        [1, 1, HASH, 9, b"\0", True],
        [1, 1, HASH, 7, b"\x80", True],
        [1, 1, HASH, 8, b"\0", 1],
        [1, 2, 1, "a" * 129, 0, 1],
        [1, 2, 1, "a", -1, 1],
        [1, 2, 1, "a", 0, 0],
        [1, 2, 1, "a", 0, (256 << 10) + 1],
        [1, 2, 1, "a", 0, True],
        [1, 3, 1, 1, bytes((256 << 10) + 1)],
        [1, 3, 1, 1, "text"],
        [1, 4, 1, "because"],
        [1, 4, 1, [[]]],
    ],
)
def test_what_no_sender_writes_is_refused(plain):
    with pytest.raises(DecodeError):
        decode(dumps(plain))


def test_a_message_is_bounded_before_it_is_decoded():
    with pytest.raises(DecodeError, match="limit"):
        decode(bytes(MAX_MESSAGE_BYTES + 1))


def test_the_longest_messages_fit():
    for message in (Piece((1 << 32) - 1, (1 << 32) - 1, bytes(256 << 10)), Bits(HASH, MAX_CHUNKS, 1, wants=False)):
        assert decode(encode(message)) == message


@pytest.mark.parametrize("wrong", [{"sources": 0}, {"ban_s": 0.0}, {"request_s": float("inf")}, {"store_bytes": -1}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)
