import itertools
import random

import pytest
from transport_pair import START_S, Pair, frames_of

from fedmesh.errors import ConfigError, PeerError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Done, Have, Ident, Open, Refuse, Whole
from fedmesh.transport.limits import MAX_CHUNK_BYTES, Limits
from fedmesh.transport.outgoing import Sender
from fedmesh.transport.transfers import Transfer

SMALL = b"small"
LARGE = random.Random(1).randbytes(950)
LIMITS = {
    "chunk_bytes": 100,
    "message_bytes": 10_000,
    "window": 4,
    "clock_skew_s": 0.0,
    "retry_s": 1.0,
    "retry_max_s": 8.0,
}


@pytest.mark.parametrize("data", [b"", b"x", SMALL, bytes(100), bytes(101), LARGE])
def test_a_message_arrives_whole_and_is_acknowledged(data):
    pair = Pair()
    sequence = pair.submit(data)
    pair.run()
    assert pair.data() == [data]
    assert pair.settled["a"] == {sequence: ""}
    assert pair.refused == {}


def test_no_more_than_a_window_is_under_way():
    pair = Pair()
    pair.submit(LARGE)
    pair.poll("a")
    assert [type(f) for parcel in pair.wires["a"] for f in frames_of(parcel)] == [Open]
    pair.give("a", pair.wires["a"].popleft())
    pair.poll("b")
    pair.give("b", pair.wires["b"].popleft())
    pair.poll("a")
    assert [f.place for parcel in pair.wires["a"] for f in frames_of(parcel)] == [0, 1, 2, 3]


def test_messages_take_turns():
    pair = Pair()
    for _ in range(2):
        pair.submit(LARGE)
    pair.submit(SMALL)
    order = []
    pair.run(bend=lambda sender, parcel: order.extend((sender, f) for f in frames_of(parcel)) or [parcel])
    chunks = [frame.ident.sequence for sender, frame in order if isinstance(frame, Chunk)]
    assert pair.data()[0] == SMALL
    assert chunks.index(2) <= 4  # a window, and not all ten
    assert chunks[-1] == 2
    assert chunks[len(chunks) // 2] == 1


def test_an_answer_goes_with_a_message():
    pair = Pair()
    pair.submit(SMALL)
    pair.poll("a")
    pair.give("a", pair.wires["a"].popleft())
    pair.submit(b"reply", sender="b")
    pair.poll("b")
    assert [[type(f) for f in frames_of(parcel)] for parcel in pair.wires["b"]] == [[Done, Whole]]


def test_what_was_lost_is_asked_for_again_and_only_that():
    pair = Pair()
    pair.submit(LARGE)
    lost, sent = {3, 7}, []

    def bend(sender, parcel):
        frames = frames_of(parcel)
        sent.extend(f.place for f in frames if isinstance(f, Chunk))
        if any(isinstance(f, Chunk) and f.place in lost for f in frames):
            lost.difference_update(f.place for f in frames)
            return []
        return [parcel]

    pair.run(bend=bend)
    assert pair.data() == []
    for _ in range(3):
        pair.advance(2.0)
        pair.run(bend=bend)
    assert pair.data() == [LARGE]
    assert sorted(sent) == sorted([*range(10), 3, 7])


def test_questions_come_less_and_less_often_and_jittered():
    pair = Pair()
    pair.submit(SMALL)
    times = []
    for _ in range(600):
        pair.poll("a")
        times += [pair.now - START_S for _ in pair.wires["a"]]
        pair.wires["a"].clear()
        pair.advance(0.1)
    waits = [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)]
    for wait, least in zip(waits, [1, 2, 4, 8, 8], strict=False):
        assert least <= wait <= least * 1.5 + 0.2
    assert len(waits) >= 5


def test_a_peer_that_comes_back_is_asked_at_once():
    pair = Pair()
    pair.submit(SMALL)
    pair.poll("a")
    pair.wires["a"].clear()
    pair.ends["a"].reached("b")
    pair.run()
    assert pair.data() == [SMALL]


def test_a_receiver_that_forgot_is_told_again():
    pair = Pair()
    pair.submit(LARGE)
    count = 0

    def bend(sender, parcel):
        nonlocal count
        count += sender == "a"
        if count == 4:
            count += 1
            pair.restart("b")
        return [parcel]

    pair.run(bend=bend)
    assert pair.data() == [LARGE]
    assert pair.refused["unknown"] >= 1


def test_a_sender_that_began_anew_is_believed_and_its_past_is_not():
    pair = Pair()
    pair.submit(SMALL)
    pair.poll("a")
    old = pair.wires["a"].popleft()
    pair.now += 1
    pair.restart("a")
    pair.submit(b"new")
    pair.run()
    pair.give("a", old)
    assert pair.data() == [b"new"]
    assert pair.refused == {"stale": 1}


def test_a_sender_whose_clock_was_set_back_rises_above_its_past():
    pair = Pair()
    pair.submit(SMALL)
    pair.run()
    pair.now -= 500
    pair.restart("a")
    pair.submit(b"new")
    pair.run()
    assert pair.data() == [SMALL, b"new"]
    assert set(pair.settled["a"].values()) == {""}


def test_an_incarnation_from_the_far_future_is_refused():
    pair = Pair()
    ident = Ident(int(pair.now * 1000) + 2 * 86_400_000, 1)
    pair.give("a", Whole(ident, 1, int(pair.now * 1000) + 1000, Content.of(SMALL, 100).digest, SMALL))
    assert pair.refused == {"clock": 1}
    pair.submit(SMALL)
    pair.run()
    assert pair.data() == [SMALL]


def test_a_repeated_message_is_acknowledged_again_and_not_given_out_again():
    pair = Pair()
    pair.submit(SMALL)
    pair.poll("a")
    parcel = pair.wires["a"].popleft()
    for _ in range(3):
        pair.give("a", parcel)
    pair.run()
    assert pair.data() == [SMALL]
    assert pair.refused == {"duplicate": 2}


def test_what_has_expired_is_neither_sent_nor_taken():
    pair = Pair()
    sequence = pair.submit(SMALL, lifetime_s=10)
    pair.poll("a")
    late = pair.wires["a"].popleft()
    pair.advance(11)
    assert "expired" in pair.settled["a"][sequence]
    pair.give("a", late)
    pair.run()
    assert pair.data() == []
    assert pair.refused == {"expired": 1}


def test_a_transfer_that_expires_half_way_gives_its_memory_back():
    pair = Pair()
    pair.submit(LARGE, lifetime_s=10)
    pair.run(bend=lambda sender, parcel: [] if isinstance(frames_of(parcel)[0], Chunk) else [parcel])
    receiver = pair.ends["b"]._receiver
    assert receiver.held_bytes == len(LARGE)
    pair.advance(11)
    assert receiver.held_bytes == 0
    assert pair.refused == {"abandoned": 1}


def test_an_idle_transfer_is_given_up_but_not_a_fresh_one():
    pair = Pair(Limits(**LIMITS, idle_s=5.0))
    pair.submit(LARGE)
    pair.poll("a")
    pair.give("a", pair.wires["a"].popleft())
    pair.advance(4)
    assert pair.refused == {}
    pair.advance(2)
    assert pair.refused == {"abandoned": 1}


def test_a_receiver_without_room_lets_the_sender_wait_until_the_application_has_taken_something():
    pair = Pair(Limits(**{**LIMITS, "message_bytes": 1000}, peer_bytes=1000))
    pair.submit(LARGE)
    pair.run()
    pair.submit(bytes(900))
    pair.run()
    assert pair.data() == [LARGE]
    assert pair.refused == {"busy": 1}
    pair.ends["b"].taken(pair.delivered["b"][0])
    pair.run()  # it is asked for at once, not when the sender asks again
    assert pair.data() == [LARGE, bytes(900)]


def test_an_invitation_that_nobody_waits_for_is_not_followed():
    pair = Pair()
    sequence = pair.submit(LARGE)
    pair.poll("a")
    pair.wires["a"].clear()
    for _ in range(5):
        pair.give("b", Refuse(Ident(pair.ends["a"].incarnation, sequence), "again"))
    pair.poll("a")
    assert not pair.wires["a"]


def test_a_receiver_whose_system_has_no_memory_is_asked_again(monkeypatch):
    pair = Pair()

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as poor:
        poor.setattr(Transfer, "of", no_memory)
        sequence = pair.submit(LARGE)
        pair.run()
    assert (pair.data(), pair.refused) == ([], {"memory": 1, "busy": 1})
    pair.advance(4.0)
    pair.run()
    assert pair.data() == [LARGE]
    assert pair.settled["a"] == {sequence: ""}


@pytest.mark.parametrize(
    ("limits", "messages"),
    [({"transfers": 1}, 2), ({"peer_messages": 1}, 2), ({"message_bytes": 1000, "incoming_bytes": 1500}, 2)],
)
def test_each_bound_of_a_receiver_makes_it_busy(limits, messages):
    sender, receiver = Limits(**LIMITS), Limits(**{**LIMITS, **limits})
    pair = Pair(receiver)
    pair.limits = sender
    pair.restart("a")
    for _ in range(messages):
        pair.submit(LARGE)
    pair.poll("a")
    while pair.wires["a"]:
        pair.give("a", pair.wires["a"].popleft())
    assert pair.refused == {"busy": 1}


def test_a_message_beyond_the_receivers_limit_is_refused_for_good():
    pair = Pair()
    pair.limits = Limits(**{**LIMITS, "message_bytes": 500})
    pair.restart("b")
    sequence = pair.submit(LARGE)
    pair.run()
    assert pair.settled["a"] == {sequence: "b refused it: too-large"}


def test_a_sender_has_bounds_too():
    pair = Pair(Limits(**{**LIMITS, "message_bytes": 1000}, outgoing_bytes=1000, queued=2))
    end = pair.ends["a"]
    pair.submit(LARGE)
    assert not end.has_room("b", 51)
    assert end.has_room("b", 50)
    with pytest.raises(PeerError, match="too much is waiting"):
        pair.submit(bytes(51))
    pair.submit(SMALL)
    assert not end.has_room("b", 0)
    with pytest.raises(PeerError, match="the limit is 1000"):
        pair.submit(bytes(1001))
    pair.run()
    assert end.has_room("b", 1000)


def test_no_more_transfers_are_open_than_allowed_and_all_arrive():
    pair = Pair(Limits(**LIMITS, transfers=2))
    for number in range(6):
        pair.submit(bytes([number]) * 300)
    pair.poll("a")
    assert len(pair.wires["a"]) == 2
    pair.run()
    assert sorted(pair.data()) == [bytes([number]) * 300 for number in range(6)]
    assert pair.refused == {}


def test_sequences_have_to_grow():
    sender = Sender(Limits(), 1, chance=random.Random(0), wall=lambda: 0.0, counts=Pair().ends["a"].counts)
    content = Content.of(SMALL, 100)
    sender.submit("b", 5, content, 10.0, SMALL)
    with pytest.raises(ValueError, match="have to grow"):
        sender.submit("b", 5, content, 10.0, SMALL)


def test_the_deadlines_of_what_was_settled_are_forgotten():
    pair = Pair()
    for _ in range(3000):
        pair.submit(SMALL)
        pair.run()
        pair.ends["b"].taken(pair.delivered["b"].pop())
    assert len(pair.ends["a"]._sender._deadlines) < 2500
    assert len(pair.ends["b"]._receiver._peers["a"].record.done) < 10


def test_a_shunned_peer_is_not_heard_and_not_sent_to():
    pair = Pair()
    sequence = pair.submit(SMALL)
    pair.take("a", pair.ends["a"].shun("b"))
    assert "shunned" in pair.settled["a"][sequence]
    pair.submit(b"from b", sender="b")
    pair.run()
    assert pair.data("a") == []
    assert pair.ends["a"].counts["shunned"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": 0},
        {"retry_s": float("nan")},
        {"chunk_bytes": MAX_CHUNK_BYTES + 1},
        {"chunk_bytes": 100, "message_bytes": 10_000_000},
        {"peer_bytes": 1000},
        {"clock_skew_s": -1.0},
    ],
)
def test_limits_that_cannot_hold_are_refused(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


@pytest.mark.parametrize(
    "frame",
    [
        lambda ident, content: Have(ident, 1, bytes(32), b"\xff\x03"),
        lambda ident, content: Have(ident, 9, content.digest, b"\xff\x03"),
        lambda ident, content: Have(ident, 1, content.digest, b"\xff\x07"),
        lambda ident, content: Done(ident, bytes(32)),
        lambda ident, content: Done(ident._replace(incarnation=1), content.digest),
        lambda ident, content: Done(ident._replace(sequence=99), content.digest),
        lambda ident, content: Refuse(ident, "stale", 1 << 62),
    ],
)
def test_a_forged_answer_changes_nothing(frame):
    pair = Pair()
    sequence = pair.submit(LARGE)
    pair.poll("a")
    ident = Ident(pair.ends["a"].incarnation, sequence)
    pair.give("b", frame(ident, Content.of(LARGE, 100)))
    assert pair.settled["a"] == {}
    assert sum(pair.ends["a"].counts[name] for name in ("answer_forged", "answer_late")) == 1
    pair.run()
    assert pair.data() == [LARGE]
