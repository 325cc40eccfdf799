"""Who is there: the last word of each device, and which devices take part in which run. No I/O, no clock, no lock.

Only what a device has signed counts: a word dated before the last one changes nothing, so repeating or delaying one is
of no use to whoever carries it. Presence, which a broker can make up, only ever takes a device away for as long as it
says nothing itself: it can keep out whom the broker could silence anyhow.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from fedmesh.fleet.protocol import HERE_EVERY_S, Here, node_id_of
from fedmesh.identity.names import Name

__all__ = ["OFFER_AGAIN_S", "Roll", "Stand", "Standing"]

SILENCE_S = 5 * HERE_EVERY_S
GRACE_S = 30.0
"""So long after its connection ended a device is still waited for."""
OFFER_AGAIN_S = 60.0
"""An offer is good for so long, and made again if it was not answered by then."""
DECLINED_S = 600.0
"""A device that declined is asked again after so long: its owner may have thought better of it."""


class Stand(Enum):
    """How a device stands to a run."""

    ASKED = "asked"
    ACCEPTED = "accepted"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Standing:
    """Since when, by our clock; `said` is an answer's own date, and `why` one of `protocol.REASONS`."""

    stand: Stand
    since: float
    said: float = 0.0
    why: str = ""


@dataclass(slots=True)
class _Device:
    node: int
    here: Here | None = None
    said: float = 0.0  # date of `here`
    heard: float = -1.0  # when it last said anything, by our clock
    left: float | None = None  # when its connection ended, unless it was heard since
    runs: dict[int, Standing] = field(default_factory=dict)


class Roll:
    """The devices of a coordinator.

    Args:
        mesh: that they are members of.
        silence_s: a device that says nothing for so long is gone.
        grace_s: so is one that was away, as presence has it, for so long.
    """

    def __init__(self, mesh: str, *, silence_s: float = SILENCE_S, grace_s: float = GRACE_S) -> None:
        self._mesh, self._silence_s, self._grace_s = mesh, silence_s, grace_s
        self._devices: dict[str, _Device] = {}
        self._names: dict[int, str] = {}

    def admit(self, names: Iterable[str]) -> list[str]:
        """Takes over who is enrolled and not revoked: others are struck off, and what they said is forgotten.

        Returns:
            Those that were left out: their node id is that of another device that was here before, or comes first.
        """
        wanted = set(names)
        for name in self._devices.keys() - wanted:
            del self._names[self._devices.pop(name).node]
        left_out = []
        for name in sorted(wanted - self._devices.keys()):
            node = node_id_of(Name(self._mesh, name))
            if node in self._names:
                left_out.append(name)
            else:
                self._devices[name], self._names[node] = _Device(node), name
        return left_out

    def heard(self, name: str, now: float) -> None:
        """A packet of the device was found right at `now`, whatever was in it."""
        if (device := self._devices.get(name)) is not None:
            device.heard, device.left = max(device.heard, now), None

    def here(self, name: str, here: Here, sent: float) -> bool:
        """A device says how it is; returns whether that was news: dated after what it said last."""
        device = self._devices.get(name)
        if device is None or sent <= device.said:
            return False
        if device.here is not None and (device.here.tier, device.here.clients) != (here.tier, here.clients):
            device.runs.clear()  # what it was offered was for what it was
        device.here, device.said = here, sent
        return True

    def presence(self, name: str, now: float, *, there: bool) -> None:
        """The carrier says that a device came or went."""
        if (device := self._devices.get(name)) is not None:
            device.left = None if there else (now if device.left is None else device.left)

    def offered(self, run: int, name: str, now: float) -> None:
        """The run was offered to the device."""
        if (device := self._devices.get(name)) is not None:
            before = device.runs.get(run)
            device.runs[run] = Standing(Stand.ASKED, now, 0.0 if before is None else before.said)

    def answered(self, run: int, name: str, *, accepted: bool, why: str, sent: float, now: float) -> bool:
        """A device's answer; returns whether it counts: it was asked, and this is its newest."""
        device = self._devices.get(name)
        before = None if device is None else device.runs.get(run)
        if device is None or before is None or sent <= before.said:
            return False
        device.runs[run] = Standing(Stand.ACCEPTED if accepted else Stand.DECLINED, now, sent, why)
        return True

    def forgotten(self, run: int, name: str) -> None:
        """The device knows nothing of the run: it will be offered anew."""
        if (device := self._devices.get(name)) is not None:
            device.runs.pop(run, None)

    def ended(self, run: int) -> None:
        """Forgets a run."""
        for device in self._devices.values():
            device.runs.pop(run, None)

    def is_there(self, name: str, now: float) -> bool:
        """Whether the device was heard lately and is not known to be away."""
        device = self._devices.get(name)
        if device is None or device.heard < 0 or now - device.heard > self._silence_s:
            return False
        return device.left is None

    def is_gone(self, name: str, now: float) -> bool:
        """Whether there is no use in waiting for the device: struck off, silent, or away for longer than the grace."""
        device = self._devices.get(name)
        if device is None or now - device.heard > self._silence_s:
            return True
        return device.left is not None and now - device.left > self._grace_s

    def last(self, name: str) -> Here | None:
        """What the device said last."""
        return self._devices[name].here if name in self._devices else None

    def standing(self, run: int, name: str) -> Standing | None:
        """How the device stands to a run; None: it was never offered to it."""
        return self._devices[name].runs.get(run) if name in self._devices else None

    def names(self) -> tuple[str, ...]:
        """Everybody who is enrolled, sorted."""
        return tuple(sorted(self._devices))

    def name_of(self, node: int) -> str | None:
        """The device of a Flower node id."""
        return self._names.get(node)

    def node_of(self, name: str) -> int | None:
        """The Flower node id of a device."""
        return self._devices[name].node if name in self._devices else None

    def to_offer(self, run: int, now: float) -> Mapping[str, Here]:
        """Those who are there and would begin something new, and to whom the run should be offered now."""
        there = self._there(now)
        return {
            name: here for name, here in there.items() if here.available and self._is_due(self.standing(run, name), now)
        }

    def taking_part(self, run: int, now: float) -> tuple[int, ...]:
        """Node ids of those who have accepted the run, are there and willing, ascending."""
        return tuple(
            sorted(
                self._devices[name].node
                for name, here in self._there(now).items()
                if (here.available or here.why == "busy")  # with what it has accepted
                and (standing := self.standing(run, name)) is not None
                and standing.stand is Stand.ACCEPTED
            )
        )

    def _there(self, now: float) -> Mapping[str, Here]:
        found = {name: self._devices[name].here for name in self.names() if self.is_there(name, now)}
        return {name: here for name, here in found.items() if here is not None and here.tier != "inference"}

    @staticmethod
    def _is_due(standing: Standing | None, now: float) -> bool:
        if standing is None:
            return True
        wait_s = {Stand.ASKED: OFFER_AGAIN_S, Stand.DECLINED: DECLINED_S, Stand.ACCEPTED: None}[standing.stand]
        return wait_s is not None and now - standing.since >= wait_s
