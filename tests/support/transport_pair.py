"""Two endpoints and a wire between them that a test can read, bend and cut."""

import random
from collections import deque

from fedmesh.transport.content import Content
from fedmesh.transport.endpoint import Endpoint
from fedmesh.transport.frames import decode
from fedmesh.transport.incoming import Delivered
from fedmesh.transport.limits import Limits
from fedmesh.transport.parcels import pack, unpack

START_S = 1_000_000_000.0


class Pair:
    """`a` sends to `b`; time is one number for both. Frames are queued until `carry` or `run` moves them."""

    def __init__(self, limits=None, *, seed=0, spools=(None, None)):
        self.now = START_S
        self.limits = limits or Limits(
            chunk_bytes=100, message_bytes=10_000, window=4, clock_skew_s=0.0, retry_s=1.0, retry_max_s=8.0
        )
        self.chance = random.Random(seed)
        self.spools = dict(zip("ab", spools, strict=True))
        self.ends = {}
        self.delivered = {"a": [], "b": []}
        self.settled = {"a": {}, "b": {}}
        self.wires = {"a": deque(), "b": deque()}
        for name in "ab":
            self.restart(name)

    def restart(self, name):
        """A new endpoint of that name; what was on the wire stays there."""
        self.ends[name] = Endpoint(self.limits, chance=self.chance, wall=lambda: self.now, spool=self.spools[name])
        self.settled[name] = {}
        for message in self.ends[name].restore(self.now):
            self.delivered[name].append(message)

    def submit(self, data, *, sender="a", lifetime_s=1000.0):
        end = self.ends[sender]
        content = Content.of(data, self.limits.chunk_bytes)
        sequence, expires = end.next_sequence(), self.now + lifetime_s
        if self.spools[sender] is not None:
            self.spools[sender].put(other(sender), sequence, content, expires, data)
        end.submit(other(sender), sequence, content, expires, data)
        return sequence

    def poll(self, name):
        """Frames that `name` sends now go onto its wire."""
        while (carried := self.ends[name].poll(self.now)) is not None:
            if carried.peer == other(name):  # a test may have played a third party
                self.wires[name].append(carried.data)

    def give(self, sender, *frames):
        """Hands frames, or a parcel, to the other end now."""
        to = other(sender)
        parcel = frames[0] if isinstance(frames[0], bytes) else pack([encode_any(frame) for frame in frames])
        self.take(to, self.ends[to].handle(sender, parcel, self.now))

    def take(self, name, effects):
        for effect in effects:
            if isinstance(effect, Delivered):
                self.delivered[name].append(effect)
            else:
                assert effect.sequence not in self.settled[name], "settled twice"
                self.settled[name][effect.sequence] = effect.error

    def advance(self, seconds):
        self.now += seconds
        for name in "ab":
            self.take(name, self.ends[name].tick(self.now))

    def run(self, *, bend=None, most=10_000):
        """Carries until both wires are empty; `bend(sender, parcel)` gives the parcels that arrive instead."""
        for _ in range(most):
            for name in "ab":
                self.poll(name)
            if not any(self.wires.values()):
                return
            for name in "ab":
                if self.wires[name]:
                    parcel = self.wires[name].popleft()
                    for bent in [parcel] if bend is None else bend(name, parcel):
                        self.give(name, bent)
        raise AssertionError("it does not come to an end")

    def data(self, name="b"):
        return [message.data for message in self.delivered[name]]

    @property
    def refused(self):
        return dict(self.ends["b"].counts)


def other(name):
    return "b" if name == "a" else "a"


def frames_of(parcel):
    return [decode(data) for data in unpack(parcel)]


def encode_any(frame):
    from fedmesh.transport.frames import encode

    return frame if isinstance(frame, bytes) else encode(frame)
