"""Frames are read at once as they are read part by part, and written as `wire` would write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.transport.frames import CODES, Chunk, Done, Have, Ident, Open, Refuse, Whole, decode, decode_slowly, encode

edges = [0, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]
numbers = st.sampled_from(edges) | st.integers(0, 300)
idents = st.builds(Ident, numbers, numbers)
digests = st.binary(min_size=32, max_size=32)
data = st.binary(max_size=40) | st.sampled_from([b"x" * n for n in (255, 256, 65_535, 65_536)])
whole = st.builds(Whole, idents, numbers, numbers, digests, data, numbers)
opened = st.builds(
    lambda ident, attempt, chunks, channel: Open(ident, 0, 9, attempt, chunks * 7, 7, bytes(32 * chunks), channel),
    idents,
    numbers,
    st.integers(2, 30),
    numbers,
)
others = [
    st.builds(Chunk, idents, numbers, data),
    st.builds(Have, idents, numbers, digests, st.binary(max_size=30)),
    st.builds(Done, idents, digests),
    st.builds(Refuse, idents, st.sampled_from(sorted(CODES)), numbers),
]
frames = st.one_of(whole, opened, *others)
KINDS = [Open, Whole, Chunk, Have, Done, Refuse]


def read(how, message):
    try:
        return how(message)
    except DecodeError as error:
        return str(error)


@given(frames)
def test_a_frame_is_written_as_cbor_would_write_it(frame):
    plain = [1, KINDS.index(type(frame)), *frame.ident, *frame[1:]]
    assert encode(frame) == wire.dumps(plain)


@given(frames)
def test_at_once_is_part_by_part(frame):
    message = encode(frame)
    fast, slow = read(decode, message), read(decode_slowly, message)
    assert fast == slow
    assert type(fast) is type(slow)
    assert read(decode, memoryview(message)) == slow


@given(frames, st.data())
@settings(max_examples=400)
def test_what_is_refused_part_by_part_is_refused_at_once(frame, drawn):
    message = bytearray(encode(frame))
    for _ in range(drawn.draw(st.integers(0, 3))):
        message[drawn.draw(st.integers(0, min(len(message), 120) - 1))] = drawn.draw(st.integers(0, 255))
    if drawn.draw(st.booleans()):
        message = message[: drawn.draw(st.integers(0, len(message)))] + drawn.draw(st.binary(max_size=2))
    assert read(decode, bytes(message)) == read(decode_slowly, bytes(message))
    assert read(decode, memoryview(message)) == read(decode_slowly, bytes(message))


@pytest.mark.parametrize("head", [b"\x18\x17", b"\x19\x00\xff", b"\x1a\x00\x00\xff\xff", b"\x1b" + bytes(7) + b"\xff"])
def test_a_number_that_is_not_in_its_shortest_form_is_refused(head):
    done = encode(Done(Ident(1, 7), bytes(32)))
    assert done[3:5] == b"\x01\x07"
    for message in (done[:3] + head + done[4:], done[:4] + head + done[5:]):
        with pytest.raises(DecodeError):
            decode(message)
    chunk = encode(Chunk(Ident(1, 7), 0, b"abc"))
    for length in (b"\x58\x03", b"\x59\x00\x03", b"\x5a\x00\x00\x00\x03", b"\x5b" + bytes(7) + b"\x03"):
        with pytest.raises(DecodeError):
            decode(chunk[:-4] + length + b"abc")


def test_a_number_of_2_to_the_63_is_refused():
    done = encode(Done(Ident((1 << 63) - 1, 7), bytes(32)))
    assert decode(done).ident.incarnation == (1 << 63) - 1
    with pytest.raises(DecodeError, match="2\\^63"):
        decode(done.replace(b"\x1b\x7f" + b"\xff" * 7, b"\x1b\x80" + bytes(7)))
