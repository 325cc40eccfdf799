"""Frames between peers: cut wherever the stream is, bounded before they are kept, greetings first and only first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.transport.limits import PARCEL_BYTES
from fedmesh.transport.peer_wire import (
    Answer,
    Cutter,
    Hello,
    Kind,
    announcement_in,
    announcement_of,
    called_in,
    circuit_in,
    circuit_of,
    code_in,
    credit_in,
    head_of,
)

RUN = b"12345678"
FRAMES = [(Kind.PARCEL, b"x" * 70_000), (Kind.PING, b""), (Kind.PARCEL, b"y"), (Kind.BYE, b"idle")]
STREAM = b"".join(head_of(kind, len(body)) + body for kind, body in FRAMES)


def greeted():
    cutter = Cutter()
    cutter.greeted = True
    return cutter


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_frames_are_the_same_wherever_the_stream_is_cut(cuts):
    cutter, at, found = greeted(), 0, []
    for end in [*sorted(cuts), len(STREAM)]:
        found += cutter.cut(STREAM[at:end])
        at = end
    assert found == FRAMES
    assert not cutter.is_open


@given(st.lists(st.integers(1, len(STREAM)), min_size=1, max_size=12))
def test_the_rest_of_a_frame_is_put_where_it_goes(sizes):
    cutter, at, found = greeted(), 0, []
    while at < len(STREAM):
        for size in sizes:
            if cutter.rest is None:
                found += cutter.cut(STREAM[at : at + size])
            else:
                size = min(size, len(cutter.rest))  # noqa: PLW2901 - no more than there is room for
                cutter.rest[:size] = STREAM[at : at + size]
                found += cutter.filled(size)
            at += size
    assert found == FRAMES
    assert not cutter.is_open


def test_a_frame_that_is_not_whole_is_open():
    cutter = greeted()
    assert list(cutter.cut(STREAM[:-1])) == FRAMES[:-1]
    assert cutter.is_open


@pytest.mark.parametrize("kind", list(Kind))
def test_a_frame_over_its_limit_is_refused_with_its_head(kind):
    longest = {Kind.HELLO: 256, Kind.ANSWER: 256, Kind.PARCEL: PARCEL_BYTES, Kind.ANNOUNCEMENT: 4096 + 64, Kind.BYE: 64}
    longest |= {Kind.CALL: 4 + 63, Kind.CALLED: 4, Kind.DATA: 4 + 16_384, Kind.CREDIT: 8, Kind.END: 4 + 32}
    size = longest.get(kind, 0)
    cutter = Cutter()
    cutter.greeted = kind not in {Kind.HELLO, Kind.ANSWER}
    assert list(cutter.cut(head_of(kind, size) + bytes(size))) == [(kind, bytes(size))]
    with pytest.raises(DecodeError, match="the limit is"):
        list(cutter.cut((kind << 24 | size + 1).to_bytes(4)))
    with pytest.raises(ValueError, match="at most"):
        head_of(kind, size + 1)


def test_nothing_but_greetings_is_taken_of_a_stranger_and_none_after():
    with pytest.raises(DecodeError, match="PARCEL came before the greeting"):
        list(Cutter().cut(head_of(Kind.PARCEL, 1)))
    with pytest.raises(DecodeError, match="HELLO came after the greeting"):
        list(greeted().cut(head_of(Kind.HELLO, 1)))
    with pytest.raises(DecodeError, match="no frame of kind 99"):
        list(greeted().cut(b"\x63\0\0\0"))


def test_what_follows_a_greeting_in_one_read_is_cut_by_the_new_rule():
    cutter, found = Cutter(), []
    for kind, body in cutter.cut(head_of(Kind.ANSWER, 1) + b"a" + STREAM):
        cutter.greeted = True
        found.append((kind, body))
    assert found == [(Kind.ANSWER, b"a"), *FRAMES]


def test_golden_bytes():
    """Only added to, never edited."""
    assert Hello("device-1", RUN).to_bytes().hex() == "8301686465766963652d31483132333435363738"
    assert Answer("peer", RUN).to_bytes().hex() == "83016470656572483132333435363738"
    assert head_of(Kind.PARCEL, 258).hex() == "03000102"
    assert announcement_of("lists", b"v").hex() == "0176"
    call = circuit_of(5, b"device-1")
    assert (head_of(Kind.CALL, len(call)) + call).hex() == "0800000c000000056465766963652d31"
    assert [head_of(kind, 4).hex()[:2] for kind in (Kind.CALLED, Kind.DATA, Kind.CREDIT, Kind.END)] == [
        "09", "0a", "0b", "0c",
    ]  # fmt: skip


def test_what_is_said_about_a_circuit():
    assert circuit_in(circuit_of(7, b"rest")) == (7, b"rest")
    assert called_in(b"device-1") == "device-1"
    assert credit_in((1000).to_bytes(4)) == 1000
    for read, wrong in [
        (circuit_in, b"\0\0\0"),
        (called_in, b""),
        (called_in, b"Device"),
        (called_in, b"\xff"),
        (credit_in, b"\0\0\0\0"),
        (credit_in, b"\0\1"),
        (credit_in, (262_145).to_bytes(4)),
    ]:
        with pytest.raises(DecodeError):
            read(wrong)


def test_greetings_are_read_as_they_were_written():
    for greeting in (Hello("device-1", RUN), Answer("", RUN), Answer("crowded", RUN)):
        assert type(greeting).from_bytes(greeting.to_bytes()) == greeting


@pytest.mark.parametrize(
    "data", [[2, "device-1", RUN], [1, "Device", RUN], [1, "a", b"short"], [1, "a"], [1, 2, RUN], {}, [1, "a", RUN, 1]]
)
def test_what_is_no_greeting(data):
    with pytest.raises(DecodeError):
        Hello.from_bytes(wire.dumps(data))
    if data != [1, "Device", RUN]:
        with pytest.raises(DecodeError):
            Answer.from_bytes(wire.dumps([*data, 5] if data and data[0] == 1 and len(data) == 3 else data))


def test_announcements_and_farewells():
    assert announcement_in(announcement_of("model", b"")) == ("model", b"")
    for body in (b"", b"\x02v"):
        with pytest.raises(DecodeError):
            announcement_in(body)
    assert code_in(b"idle") == "idle"
    assert code_in(b"") == code_in(b"\n\x1b[2J") == code_in(b"a" * 33) == "unreadable"
