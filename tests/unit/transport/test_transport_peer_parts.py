"""Parts of the transport between peers: the limit of bytes a second, options, held peers, which connection stays."""

import asyncio
from types import SimpleNamespace

import pytest
from transport_pair import Pair

from fedmesh.errors import ConfigError
from fedmesh.transport.bucket import Bucket
from fedmesh.transport.peer_options import PeerOptions
from fedmesh.transport.peer_pool import Pool
from fedmesh.transport.peer_wire import Hello


def test_over_any_while_no_more_is_taken_than_the_limit_says():
    bucket, now, taken = Bucket(1_000_000, 0.0), 0.0, 0
    while now < 10:
        if wait_s := bucket.wait_s(now):
            now += wait_s
        else:
            bucket.take(250_000)
            taken += 250_000
            assert taken <= 1_000_000 * (now + 0.05) + 250_000
    assert taken >= 9_900_000


def test_a_bucket_that_was_not_used_saves_nothing_up():
    bucket = Bucket(1000, 0.0)
    assert bucket.wait_s(1000.0) == 0
    bucket.take(1050)
    assert bucket.wait_s(1000.0) == pytest.approx(1.0)


def test_no_limit():
    bucket = Bucket(None, 0.0)
    bucket.take(1 << 40)
    assert bucket.wait_s(0.0) == 0


def test_options_that_cannot_be():
    with pytest.raises(ConfigError, match="quiet_s is 0"):
        PeerOptions(quiet_s=0)
    with pytest.raises(ConfigError, match="bytes_per_s is inf"):
        PeerOptions(bytes_per_s=float("inf"))
    with pytest.raises(ConfigError, match="2 peers are to be kept"):
        PeerOptions(keep=frozenset({"a", "b"}), connections=1)


def test_nothing_is_taken_out_for_a_peer_that_is_held_and_others_do_not_wait_for_it():
    pair = Pair()
    sender = pair.ends["a"]
    pair.submit(b"for b")
    pair.submit(b"more for b")
    sender.hold("b")
    assert sender.poll(pair.now) is None
    from fedmesh.transport.content import Content

    sender.submit("c", sender.next_sequence(), Content.of(b"for c", 100), pair.now + 100, b"for c")
    carried = sender.poll(pair.now)
    assert carried is not None
    assert carried.peer == "c"
    assert sender.poll(pair.now) is None
    sender.release("b")
    pair.run()
    assert pair.data() == [b"for b", b"more for b"]


def test_answers_for_a_peer_that_is_held_wait():
    pair = Pair()
    pair.submit(b"data")
    pair.poll("a")
    pair.ends["b"].hold("a")
    pair.give("a", pair.wires["a"].popleft())
    assert pair.ends["b"].poll(pair.now) is None
    pair.ends["b"].release("a")
    pair.run()
    assert pair.settled["a"] == {1: ""}


def test_what_expires_while_its_peer_is_held_is_settled_and_never_sent():
    pair = Pair()
    pair.ends["a"].hold("b")
    number = pair.submit(b"late", lifetime_s=5)
    assert pair.ends["a"].poll(pair.now) is None
    pair.advance(6)
    assert "expired" in pair.settled["a"][number]
    pair.ends["a"].release("b")
    assert pair.ends["a"].poll(pair.now) is None


def test_who_counts_as_one_stranger():
    from fedmesh.transport.peer_listener import _subscriber

    assert _subscriber("192.0.2.7") == "192.0.2.7"
    assert _subscriber("2001:db8:1:2:3::4") == _subscriber("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert _subscriber("fe80::1%eth0") == "fe80::/64"


class SilentLink:
    peer = opened_at = via = None
    is_full, unwritten = False, 0

    def __init__(self, now):
        self.heard_at = self.used_at = now
        self.asked, self.ended = 0, ""

    def stalled_s(self, now):
        return 0.0

    def ping(self):
        self.asked += 1

    def abort(self, code):
        self.ended = code


def test_silence_is_borne_half_as_long_of_whom_somebody_doubts():
    async def main():
        nobody = SimpleNamespace(revocations=None, authority=None, to_cut=lambda peers, now: {})
        pool = Pool(nobody, PeerOptions(quiet_s=20.0), SimpleNamespace(count=lambda reason: None))
        now = asyncio.get_running_loop().time()

        def looked(silent_s, *doubted):
            pool.doubted = set(doubted)
            pool.links = {name: SilentLink(now - silent_s) for name in ("b", "c")}
            pool.tick()
            return [(link.asked, link.ended) for link in pool.links.values()]

        assert looked(5, "b") == [(0, ""), (0, "")]
        assert looked(12, "b") == [(1, ""), (0, "")]
        assert looked(21, "b") == [(0, "silent"), (1, "")]
        assert looked(41) == [(0, "silent"), (0, "silent")]

    asyncio.run(main())


def test_the_rule_for_dialling_at_once():
    """Whoever has the lower name refuses once its own hello is under way; the other one lets go of its own."""

    def answer(own, other, *, greets, there=None, age_s=1.0):
        pool = Pool.__new__(Pool)
        pool._closed = False
        pool._membership = SimpleNamespace(name=SimpleNamespace(id=own))
        pool._options = SimpleNamespace(hello_s=5.0, connections=16)
        pool._loop = SimpleNamespace(time=lambda: 100.0)
        pool.dialling = {other: SimpleNamespace(greets=greets, via=None, dialled=other)} if greets is not None else {}
        known = SimpleNamespace(since=100 - age_s, run=there, dialled=other, via=None)
        pool.links = {} if there is None else {other: known}
        return pool._refusal(SimpleNamespace(name=other, via=None), Hello(own, b"run-now-"))

    assert answer("a", "b", greets=True) == "mine"
    assert answer("a", "b", greets=False) == "", "its own may never get through"
    assert answer("b", "a", greets=True) == ""
    assert answer("a", "b", greets=None, there=b"run-now-") == "mine", "it crossed our hello"
    assert answer("a", "b", greets=None, there=b"run-now-", age_s=6.0) == "", "the old one is dead at its end"
    assert answer("a", "b", greets=None, there=b"run-old-") == "", "it was started again"
    assert answer("b", "a", greets=None, there=b"run-now-") == ""


def test_a_new_connection_ends_our_own_attempt_and_the_old_one_at_once():
    """At once: what comes on them in the same turn of the loop must not make them the connection."""
    ended, came = [], []
    attempt, old, new = [SimpleNamespace(name="b", abort=ended.append) for _ in range(3)]
    pool = Pool.__new__(Pool)
    pool._watcher = SimpleNamespace(came=came.append)
    pool.links, pool.dialling = {"b": old}, {"b": attempt}
    pool.adopt(new)
    assert pool.links == {"b": new}
    assert not pool.dialling
    assert (ended, came) == (["theirs", "replaced"], [new])
