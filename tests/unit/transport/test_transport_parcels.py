"""Long data is in a parcel, a chunk and a message without being copied on its way."""

import asyncio
import random

import pytest

from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Done, Ident, Open, Whole, decode, encode
from fedmesh.transport.limits import MAX_CHUNK_BYTES, WHOLE_BYTES
from fedmesh.transport.pages import in_large_pages
from fedmesh.transport.parcels import pack, parts_of, unpack
from fedmesh.transport.transfers import Transfer

IDENT = Ident(1_700_000_000_000, 7)
DIGEST = bytes(range(32))
LONG = random.Random(1).randbytes(MAX_CHUNK_BYTES)


@pytest.mark.parametrize("answers", [[], [encode(Done(IDENT, DIGEST))] * 3])
@pytest.mark.parametrize(
    "last",
    [
        None,
        Whole(IDENT, 7, 1_700_000_060_000, DIGEST, b"short"),
        Whole(IDENT, 7, 1_700_000_060_000, DIGEST, LONG, 5),
        Chunk(IDENT, 0, b"short"),
        Chunk(IDENT, 70_000, memoryview(LONG)[: 1 << 16]),
        Chunk(IDENT, 3, memoryview(LONG)),
    ],
)
def test_a_parcel_in_parts_is_the_parcel(answers, last):
    parts = parts_of(answers, last)
    assert b"".join(parts) == pack(answers if last is None else [*answers, encode(last)])
    if last is not None and len(last.data) >= 1 << 16:
        assert any(part is last.data for part in parts)


def test_the_data_of_a_chunk_is_where_its_parcel_is():
    parcel = bytearray(pack([encode(Done(IDENT, DIGEST)), encode(Chunk(IDENT, 3, LONG))]))
    done, chunk = map(decode, unpack(memoryview(parcel)))
    assert done == Done(IDENT, DIGEST)
    assert chunk == Chunk(IDENT, 3, LONG)
    assert chunk.data.obj is parcel


def test_what_is_kept_of_a_view_is_not_in_it():
    frames = [
        Whole(IDENT, 7, 1_700_000_060_000, DIGEST, LONG[: 1 << 17], 5),
        Open(IDENT, 3, 1_700_000_060_000, 2, 2200 * 100, 100, LONG[: 2200 * 32]),
    ]
    parcel = bytearray(pack([encode(frames[0])]) + pack([encode(frames[1])]))
    whole, opened = map(decode, unpack(memoryview(parcel)))
    parcel[:] = bytes(len(parcel))
    assert [whole, opened] == frames
    assert type(whole.data) is type(opened.hashes) is bytes


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_chunks_in_any_order_are_the_message(size):
    data = random.Random(size).randbytes(size)
    content = Content.of(data, -(-size // 7))
    announced = Open(IDENT, 0, 1, 1, size, content.chunk_bytes, content.hashes)
    transfer = Transfer.of(announced, content, 0.0)
    places = random.Random(2).sample(range(7), 7)
    for count, place in enumerate(places):
        assert not transfer.has(place)
        assert transfer.missing == 7 - count
        start = place * content.chunk_bytes
        transfer.put(place, memoryview(data)[start : start + content.length(place)])
        assert transfer.has(place)
    assert transfer.have == 0b1111111
    assert transfer.whole() == data
    assert transfer.whole() is transfer.whole()  # CPython's: it is not copied


def test_large_pages_change_nothing():
    for size in (0, 10, 4 << 20, (4 << 20) + 4097):
        memory = bytearray(LONG * (size // len(LONG) + 1))[:size]
        before = bytes(memory)
        in_large_pages(memoryview(memory))
        assert memory == before


@pytest.mark.parametrize("chunk_bytes", [1000, 100_000, MAX_CHUNK_BYTES])
@pytest.mark.parametrize("size", [0, 1001, MAX_CHUNK_BYTES + 20, WHOLE_BYTES, WHOLE_BYTES + 1, 3 * MAX_CHUNK_BYTES])
def test_threads_describe_what_one_does(size, chunk_bytes):
    data = random.Random(size).randbytes(size)
    assert asyncio.run(Content.of_long(data, chunk_bytes)) == Content.of(data, chunk_bytes)
