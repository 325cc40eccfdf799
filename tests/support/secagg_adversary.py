"""An aggregator that does as it likes, against real devices: it builds any message with the real aggregator's key.

Everything that a device gives is kept, so that a test can say that no share was among it.
"""

import pytest
from secagg_sessions import AGGREGATOR, Federation, identity

from fedmesh import wire
from fedmesh.secagg import Participant, SecAggError, SessionHeader
from fedmesh.secagg.messages import Kind, read, sign_envelope
from fedmesh.secagg.session import binding

WAITS_FOR = {"advertised": Kind.KEYS, "shared": Kind.DELIVERIES, "masked": Kind.SURVIVORS, "signed": Kind.QUORUM}
LARGEST = 1 << 24


def body_of(message: bytes):
    """What is inside a message, unverified."""
    return wire.loads(read(message, max_bytes=LARGEST).body, max_bytes=LARGEST)


def forge(federation: Federation, kind: Kind, body: object, *, sender: str = AGGREGATOR, header=None) -> bytes:
    """A message as its sender would sign it, with any body; `header` for that of another session."""
    about: SessionHeader = header or federation.header
    session = binding(about, federation.roster)
    return sign_envelope(kind, body, session=session, sid=about.sid, sender=sender, identity=identity(sender))


class Adversary:
    """A session that goes on honestly until the test takes over."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.devices = federation.devices()
        self.aggregator = federation.aggregator()
        self.seen: list[bytes] = []
        self.shares: set[bytes] = set()
        self.up = list(federation.begin(self.devices).items())

    def until(self, kind: Kind, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
        """The honest messages of `kind`, for each device that waits for one; none is delivered yet.

        The devices in `without` are not heard in the step before.
        """
        while True:
            waiting = {WAITS_FOR[device.step] for device in self.devices.values() if not device.finished}
            down = self.next_down(without=without if kind in waiting else ())
            if kind in waiting:
                return down
            self.deliver(down)

    def next_down(self, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
        """What the honest aggregator answers to what is under way."""
        down = [
            sent for name, message in self.up if name not in without for sent in self.aggregator.handle(name, message)
        ]
        self.up = []
        if not down and self.aggregator.result is None:
            down = self.aggregator.advance()
        return dict(down)

    def deliver(self, down: dict[str, bytes]) -> None:
        """Each device answers its message; all the answers are kept."""
        for name, message in down.items():
            answer = self.devices[name].handle(message)
            self._note_shares(self.devices[name])
            if answer is not None:
                self.up.append((name, answer))
                self.seen.append(answer)

    def finish(self, down: dict[str, bytes]) -> None:
        """Goes on honestly to the end: the sum has to be right, as if nothing had been tried."""
        while self.aggregator.result is None:
            self.deliver(down)
            down = self.next_down()
        result = self.aggregator.result
        result.verify(self.federation.header, self.federation.roster)
        assert [*result.total.tolist(), result.weight] == self.federation.sum_over(result.survivors)

    def restart(self, name: str) -> None:
        """The device goes down and up again: its sealed state and its store are left."""
        self.devices[name] = self.federation.reopened(self.devices[name])

    def put_back(self, name: str, sealed: bytes) -> None:
        """The device goes on from a sealed state of its past; its store has not forgotten."""
        federation = self.federation
        self.devices[name].close()
        self.devices[name] = Participant.unseal(
            name, identity(name), federation.roster, federation.policy, sealed, federation.store_path(name)
        )

    def refuses(self, name: str, message: bytes, *codes: str) -> SecAggError:
        """The device refuses the message, says why, and stays as it was."""
        device = self.devices[name]
        before = device.step
        with pytest.raises(SecAggError) as caught:
            device.handle(message)
        assert caught.value.code in codes, caught.value
        assert device.step == before
        assert self.no_share_left()
        return caught.value

    def no_share_left(self) -> bool:
        """Whether none of the shares that any device holds is in anything that any device ever sent."""
        assert self.shares
        everything = b"\x00" * 40 + b"".join(self.seen)
        return not any(share in everything for share in self.shares)

    def _note_shares(self, device: Participant) -> None:
        if device._state is not None:
            for pair in device._state.held.values():
                self.shares |= {pair[:33], pair[33:]}
