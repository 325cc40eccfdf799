import random

import pytest

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import (
    Chunk,
    Done,
    Have,
    Ident,
    Open,
    Refuse,
    Whole,
    decode,
    encode,
)
from fedmesh.transport.limits import FRAME_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, PARCEL_BYTES
from fedmesh.transport.parcels import PARCEL_FRAMES, pack, unpack

IDENT = Ident(1_700_000_000_000, 7)
DIGEST = bytes(range(32))
FRAMES = [
    Open(IDENT, 3, 1_700_000_060_000, 2, 250, 100, bytes(96)),
    Whole(IDENT, 7, 1_700_000_060_000, DIGEST, b"data"),
    Chunk(IDENT, 2, b"chunk"),
    Have(IDENT, 2, DIGEST, b"\x05"),
    Done(IDENT, DIGEST),
    Refuse(IDENT, "busy", 12),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_comes_back(frame):
    assert decode(encode(frame)) == frame


def test_the_bytes_of_version_1():
    # Golden: only added to, never edited. A fleet holds endpoints of several releases.
    assert encode(FRAMES[2]).hex() == "8601021b0000018bcfe5680007024563" + "68756e6b"
    assert encode(FRAMES[5]).hex() == "8601051b0000018bcfe56800076462757379" + "0c"


@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, MAX_CHUNK_BYTES])
def test_long_data_is_written_as_cbor_would_write_it(size):
    data = random.Random(size).randbytes(size)
    for channel in (0, 23, 24, 256):
        whole = Whole(IDENT, 7, 1_700_000_060_000, DIGEST, data, channel)
        assert encode(whole) == wire.dumps([1, 1, *IDENT, 7, 1_700_000_060_000, DIGEST, data, channel])
    for index in (0, 24, 70_000):
        assert encode(Chunk(IDENT, index, data)) == wire.dumps([1, 2, *IDENT, index, data])


def test_the_longest_frames_and_parcel_fit_their_limits():
    big = 1 << 62
    announcement = Open(Ident(big, big), big, big, big, MAX_CHUNKS * 100, 100, bytes(32 * MAX_CHUNKS))
    chunk = Chunk(Ident(big, big), big, bytes(MAX_CHUNK_BYTES))
    assert max(len(encode(announcement)), len(encode(chunk))) <= FRAME_BYTES
    have = encode(Have(Ident(big, big), big, DIGEST, bytes(MAX_CHUNKS // 8)))
    assert len(pack([have] * (8 * 1024 // len(have) + 1) + [encode(chunk)])) <= PARCEL_BYTES


@pytest.mark.parametrize(
    "plain",
    [
        {},
        [],
        [2, 2, 1, 1, 0, b""],
        [True, 2, 1, 1, 0, b""],
        [1, 6, 1, 1, 0, b""],
        [1, "2", 1, 1, 0, b""],
        [1, 2, -1, 1, 0, b""],
        [1, 2, 1, 1 << 63, 0, b""],
        [1, 2, 1, 1, 0.0, b""],
        [1, 2, 1, 1, 0, "text"],
        [1, 2, 1, 1, 0],
        [1, 2, 1, 1, 0, b"", 0],
        [1, 4, 1, 1, b"short"],
        [1, 5, 1, 1, "because", 0],
        [1, 5, 1, 1, 7, 0],
        [1, 1, 1, 1, 2, 5, DIGEST, b"below its own floor"],
        [1, 0, 1, 1, 0, 5, 1, 250, 0, bytes(96)],
        [1, 0, 1, 1, 0, 5, 1, 250, MAX_CHUNK_BYTES + 1, bytes(96)],
        [1, 0, 1, 1, 0, 5, 1, 250, 100, bytes(64)],
        [1, 0, 1, 1, 0, 5, 1, 250, 250, bytes(32)],
        [1, 3, 1, 1, 1, DIGEST, bytes(MAX_CHUNKS // 8 + 1)],
        [1, 2, 1, 1, 0, bytes(MAX_CHUNK_BYTES + 1)],
    ],
)
def test_what_no_sender_writes_is_refused(plain):
    with pytest.raises(DecodeError):
        decode(wire.dumps(plain))


def test_parcels_come_back():
    frames = [encode(frame) for frame in FRAMES]
    assert unpack(pack(frames)) == frames


@pytest.mark.parametrize(
    "parcel",
    [
        b"\0",
        b"\0\0\0\0",
        b"\0\0\0\5four",
        b"\xff\xff\xff\xff" + b"x" * 100,
        pack([b"x"] * (PARCEL_FRAMES + 1)),
        pack([b"x"]) + bytes(PARCEL_BYTES),
        pack([b"x"])[:-1] + b"y",
        pack([b"x"]) + b"\0",
        pack([b""]),
    ],
)
def test_what_is_no_parcel_is_refused(parcel):
    with pytest.raises(DecodeError):
        unpack(parcel)


def test_a_number_that_was_altered_on_the_way_is_noticed():
    parcel = pack([encode(FRAMES[1])])
    for place in range(len(parcel)):
        with pytest.raises(DecodeError):
            unpack(parcel[:place] + bytes([parcel[place] ^ 1]) + parcel[place + 1 :])


def test_a_digest_commits_to_content_length_and_chunks():
    content = Content.of(b"x" * 250, 100)
    assert content.chunks == 3
    assert [content.length(index) for index in range(3)] == [100, 100, 50]
    assert content.holds(2, b"x" * 50)
    assert not content.holds(2, b"x" * 49 + b"y")
    others = [Content.of(b"x" * 249 + b"y", 100), Content.of(b"x" * 250, 125), Content.of(b"x" * 251, 100)]
    assert len({content.digest, *[one.digest for one in others]}) == 4


def test_a_short_message_has_one_digest_whatever_the_chunks():
    assert Content.of(b"abc", 3).digest == Content.of(b"abc", 100).digest
    assert Content.of(b"", 100).chunks == 1
