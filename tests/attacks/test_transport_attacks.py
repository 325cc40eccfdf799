"""What a hostile peer, or a broker that forges frames, can do to a receiver: be refused, and counted."""

import random

import pytest
from transport_pair import START_S, Pair, frames_of

from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Ident, Open, Refuse, Whole, encode
from fedmesh.transport.limits import MAX_CHUNKS, Limits
from fedmesh.transport.parcels import pack

DATA = random.Random(3).randbytes(950)
CONTENT = Content.of(DATA, 100)
NOW_MS = int(START_S * 1000)
IDENT = Ident(NOW_MS, 1)
ANNOUNCED = Open(IDENT, 1, NOW_MS + 100_000, 1, 950, 100, CONTENT.hashes)


def chunk(index, data=None):
    return Chunk(IDENT, index, DATA[index * 100 : index * 100 + 100] if data is None else data)


def test_the_frames_of_these_tests_are_good_ones():
    pair = Pair()
    pair.give("a", ANNOUNCED, *[chunk(index) for index in range(10)])
    assert pair.data() == [DATA]
    assert pair.refused == {}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (chunk(2, bytes(100)), "chunk_hash"),
        (chunk(2, DATA[300:400]), "chunk_hash"),  # swapped
        (chunk(2, DATA[200:299]), "chunk_size"),  # truncated
        (chunk(2, DATA[200:301]), "chunk_size"),
        (chunk(9, DATA[900:] + b"x"), "chunk_size"),
        (chunk(10, bytes(50)), "chunk_size"),
        (chunk(1 << 60, b"x"), "chunk_size"),
        (chunk(0), "duplicate"),
        (Chunk(Ident(NOW_MS, 2), 0, b"x"), "unknown"),
        (Chunk(Ident(NOW_MS + 1, 1), 0, b"x"), "unknown"),
        (Open(IDENT, 1, NOW_MS + 100_000, 1, 950, 100, bytes(320)), "conflict"),
        (Open(IDENT, 1, NOW_MS + 100_000, 1, 940, 100, CONTENT.hashes), "conflict"),
        (Whole(IDENT, 1, NOW_MS + 100_000, Content.of(b"x", 100).digest, b"x"), "conflict"),
        (Whole(Ident(NOW_MS, 2), 1, NOW_MS + 100_000, bytes(32), b"x"), "digest"),
        (Open(Ident(NOW_MS, 2), 1, NOW_MS + 100_000, 1, 10_001, 5001, bytes(64)), "too_large"),
        (Open(Ident(NOW_MS, 2), 1, NOW_MS - 1, 1, 950, 100, CONTENT.hashes), "expired"),
        (Open(Ident(NOW_MS, 2), 1, 1 << 62, 1, 950, 100, CONTENT.hashes), "clock"),
        (Open(Ident(NOW_MS - 1, 2), 1, NOW_MS + 1000, 1, 950, 100, CONTENT.hashes), "stale"),
        (b"\0\0\0\4junk", "malformed"),
        (b"junk", "malformed"),
        (bytes(1 << 20), "malformed"),
    ],
)
def test_a_hostile_frame_is_counted_and_changes_nothing(frame, reason):
    pair = Pair()
    pair.give("a", ANNOUNCED, chunk(0), chunk(1))
    held = pair.ends["b"]._receiver.held_bytes
    pair.give("a", frame)
    assert pair.refused == {reason: 1}
    assert pair.ends["b"]._receiver.held_bytes == held
    pair.give("a", *[chunk(index) for index in range(2, 10)])
    assert pair.data() == [DATA]


def test_good_frames_before_a_bad_one_in_a_parcel_count():
    pair = Pair()
    pair.give("a", pack([encode(ANNOUNCED), *[encode(chunk(index)) for index in range(10)], b"junk"]))
    assert pair.data() == [DATA]
    assert pair.refused == {"malformed": 1}


def test_announcements_without_chunks_hold_no_more_than_a_peers_share():
    limits = Limits(peer_bytes=300 << 20, transfers=8)
    pair = Pair(limits)
    for sequence in range(1, 20):
        hashes = bytes(32 * 1024)
        pair.give("a", Open(Ident(NOW_MS, sequence), 1, NOW_MS + 1000, 1, 100 << 20, 100 << 10, hashes))
    assert pair.ends["b"]._receiver.held_bytes == 300 << 20
    assert pair.refused == {"busy": 16}
    pair.give("a", Open(Ident(NOW_MS + 1, 1), 1, NOW_MS + 1000, 1, 950, 100, CONTENT.hashes))
    assert pair.ends["b"]._receiver.held_bytes == 950  # a sender that begins anew gives back what it held


def test_one_peer_cannot_take_another_peers_room():
    pair = Pair(Limits(message_bytes=1 << 20, peer_bytes=1 << 20, incoming_bytes=2 << 20))
    end = pair.ends["b"]
    for sequence in (1, 2):
        frame = Open(Ident(NOW_MS, sequence), 1, NOW_MS + 1000, 1, 1 << 20, 1 << 17, bytes(256))
        end.handle("hostile", pack([encode(frame)]), pair.now)
    pair.submit(bytes(1 << 20))
    pair.run()
    assert pair.data() == [bytes(1 << 20)]


def test_peers_beyond_the_limit_are_not_remembered():
    pair = Pair(Limits(peers=10))
    frame = Whole(IDENT, 1, NOW_MS + 1000, Content.of(b"x", 100).digest, b"x")
    for number in range(30):
        pair.ends["b"].handle(f"peer-{number}", pack([encode(frame)]), pair.now)
        pair.ends["b"].handle(f"stranger-{number}", pack([encode(chunk(0))]), pair.now)
    assert len(pair.ends["b"]._receiver._peers) == 10
    assert pair.refused["busy"] == 20


def test_a_flood_of_questions_is_answered_with_bounded_memory_and_does_not_keep_others_waiting():
    pair = Pair()
    end = pair.ends["b"]
    for sequence in range(1, 3000):
        end.handle("hostile", pack([encode(Chunk(Ident(1, sequence), 0, b"x"))]), pair.now)
    assert len(end._answers["hostile"]) == 1024
    assert end.counts["answers_dropped"] == 2999 - 1024
    end.handle("a", pack([encode(ANNOUNCED)]), pair.now)
    peers = [end.poll(pair.now).peer for _ in range(2)]
    assert "a" in peers


def test_a_floor_that_was_forged_hurts_only_the_peer_whose_name_it_bears():
    pair = Pair()
    forged = Whole(Ident(NOW_MS, 1 << 61), 1 << 61, NOW_MS + 1000, Content.of(b"x", 100).digest, b"x")
    pair.ends["b"].handle("hostile", pack([encode(forged)]), pair.now)
    pair.submit(DATA)
    pair.run()
    assert pair.data()[-1] == DATA


def test_one_peer_cannot_make_us_rise_above_what_others_take():
    """A device that answers "stale" changes how we speak to it, and to nobody else."""
    pair = Pair()
    pair.submit(DATA)
    pair.poll("a")
    [announced] = frames_of(pair.wires["a"][0])
    pair.ends["a"].handle("b", pack([encode(Refuse(announced.ident, "stale", 1 << 61))]), pair.now)
    pair.ends["a"].submit("c", 99, CONTENT, pair.now + 100, DATA)
    carried = [pair.ends["a"].poll(pair.now) for _ in range(2)]
    idents = {one.peer: frames_of(one.data)[0].ident for one in carried}
    assert idents["b"].incarnation == (1 << 61) + 1
    assert idents["c"].incarnation == NOW_MS


def test_an_announcement_of_the_most_and_smallest_chunks_is_cheap():
    pair = Pair(Limits(message_bytes=1 << 20))
    for sequence in range(1, 5):
        frame = Open(Ident(NOW_MS, sequence), 1, NOW_MS + 1000, 1, MAX_CHUNKS, 1, bytes(32 * MAX_CHUNKS))
        pair.give("a", frame)
    assert pair.ends["b"]._receiver.held_bytes == 4 * MAX_CHUNKS
