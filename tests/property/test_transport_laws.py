import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transport_pair import Pair, frames_of

from fedmesh.errors import DecodeError
from fedmesh.transport.frames import decode, encode
from fedmesh.transport.limits import Limits
from fedmesh.transport.parcels import unpack
from fedmesh.transport.spool import Spool

LIMITS = Limits(
    chunk_bytes=50, message_bytes=5000, window=4, transfers=2, clock_skew_s=0.0, retry_s=1.0, retry_max_s=4.0
)
SIZES = st.lists(st.integers(0, 700), min_size=1, max_size=6)


class Bad:
    """Loses, repeats and reorders, all by one generator."""

    def __init__(self, pair, chance, loss, duplication, delay):
        self.pair, self.chance = pair, chance
        self.loss, self.duplication, self.delay = loss, duplication, delay
        self.later = []

    def __call__(self, sender, parcel):
        copies = 0 if self.chance.random() < self.loss else 1 + (self.chance.random() < self.duplication)
        self.later += [(sender, parcel)] * copies
        arriving = []
        for one in list(self.later):
            if one[0] == sender and self.chance.random() >= self.delay:
                self.later.remove(one)
                arriving.append(one[1])
        self.chance.shuffle(arriving)
        return arriving

    def flush(self):
        for sender, parcel in self.later:
            self.pair.give(sender, parcel)
        self.later.clear()


def exchange(pair, sizes, bad, chance, restart=lambda: None):
    sent = [chance.randbytes(size) for size in sizes]
    for data in sent:
        pair.submit(data)
    for _ in range(900):  # seconds; half of the frames lost takes a hundred, and one in a hundred times three hundred
        pair.run(bend=bad)
        bad.flush()
        restart()
        if not pair.ends["a"]._sender.held_bytes and not any(
            lane.messages for lane in pair.ends["a"]._sender._lanes.values()
        ):
            break
        pair.advance(1.0)
    return sent


@given(SIZES, st.integers(0, 2**32), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.6))
@settings(max_examples=60, deadline=None)
def test_whatever_a_network_does_each_message_is_delivered_once_and_equal(sizes, seed, loss, duplication, delay):
    chance = random.Random(seed)
    pair = Pair(LIMITS, seed=seed)
    sent = exchange(pair, sizes, Bad(pair, chance, loss, duplication, delay), chance)
    assert sorted(pair.data()) == sorted(sent)
    assert set(pair.settled["a"].values()) == {""}
    assert len(pair.settled["a"]) == len(sent)


@given(SIZES, st.integers(0, 2**32))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_with_spools_that_holds_over_restarts_of_either_end(sizes, seed):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:

        def spool(name):
            return Spool(Path(folder, name), incarnation=10**12)

        pair = Pair(LIMITS, seed=seed, spools=(spool("a"), spool("b")))
        taken = []

        def restart():
            for message in pair.delivered["b"]:
                if message.ident not in taken:
                    pair.ends["b"].taken(message)
                    taken.append(message.ident)
            for name in "ab":
                if chance.random() < 0.2:
                    pair.spools[name].close()
                    pair.spools[name] = spool(name)
                    pair.restart(name)

        sent = exchange(pair, sizes, Bad(pair, chance, 0.2, 0.2, 0.3), chance, restart)
        assert sorted(pair.data()) == sorted(sent)
        for kept in pair.spools.values():
            kept.close()


@given(SIZES, st.integers(0, 2**32), st.floats(0.05, 0.3))
@settings(max_examples=40, deadline=None)
def test_bits_that_flip_on_the_way_change_no_message(sizes, seed, flips):
    chance = random.Random(seed)

    def bend(sender, parcel):
        if chance.random() >= flips:
            return [parcel]
        bent = bytearray(parcel)
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        return [bytes(bent)]

    sent = [chance.randbytes(size) for size in sizes]
    pair = Pair(LIMITS, seed=seed)
    for data in sent:
        pair.submit(data)
    for _ in range(900):
        pair.run(bend=bend)
        if len(pair.settled["a"]) == len(sent):
            break
        pair.advance(1.0)
    assert sorted(pair.data()) == sorted(sent)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_no_bytes_do_more_than_be_refused(data):
    for read in (decode, unpack):
        try:
            read(data)
        except DecodeError:
            continue
    pair = Pair(LIMITS)
    pair.give("a", data)
    assert pair.data() == []


@given(SIZES, st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_every_frame_of_an_exchange_comes_back_from_its_bytes(sizes, seed):
    pair = Pair(LIMITS, seed=seed)
    frames = []
    for size in sizes:
        pair.submit(bytes(size))
    pair.run(bend=lambda sender, parcel: frames.extend(frames_of(parcel)) or [parcel])
    assert [decode(encode(frame)) for frame in frames] == frames
