"""How often an address, and a source, may be tried. Sans-IO: the time is an argument.

What is remembered of an address outlives the hint that named it: a liar that names it again and again does not make us
knock any more often.
"""

import random
from dataclasses import dataclass

from fedmesh.mesh.discovery.addresses import Address
from fedmesh.mesh.discovery.settings import Settings

__all__ = ["Budget", "Pace"]


@dataclass(slots=True)
class _Tried:
    failures: int
    free_at: float


class Pace:
    """When each address may be tried again."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._settings, self._rng = settings, rng
        self._tried: dict[Address, _Tried] = {}

    def free_at(self, address: Address) -> float:
        """From when on it may be tried; 0 if nothing is known of it."""
        tried = self._tried.get(address)
        return 0.0 if tried is None else tried.free_at

    def failures(self, address: Address) -> int:
        """In a row, as far as they are remembered."""
        tried = self._tried.get(address)
        return 0 if tried is None else tried.failures

    def began(self, address: Address, now: float) -> None:
        """It is being tried: not again before the gap of now is over, even if nobody says what came of it."""
        self._set(address, self.failures(address), now)

    def failed(self, address: Address, now: float) -> None:
        """It was refused, or did not answer."""
        self._set(address, self.failures(address) + 1, now)

    def reached(self, address: Address, now: float) -> None:
        """Somebody of the mesh is there."""
        self._set(address, 0, now)

    def room_at(self, now: float) -> float:
        """When one more address can be remembered, `now` or later; nothing is tried that could not be."""
        settings = self._settings
        for over in (
            now - settings.longest_s,
            now,
        ):  # a failure is forgotten when it has waited twice, if there is room
            if len(self._tried) >= settings.tried:
                self._tried = {address: tried for address, tried in self._tried.items() if tried.free_at > over}
        if len(self._tried) < settings.tried:
            return now
        return min(tried.free_at for tried in self._tried.values())

    def _set(self, address: Address, failures: int, now: float) -> None:
        settings = self._settings
        wait_s = min(settings.longest_s, settings.gap_s * 2.0 ** min(failures, 32))
        self._tried.pop(address, None)
        self._tried[address] = _Tried(failures, now + wait_s * self._rng.uniform(1, 1.5))


class Budget:
    """Attempts of one source: `burst` at once, then one every `every_s`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._left, self._at = float(settings.burst), 0.0

    def ready_at(self, now: float) -> float:
        """When the next attempt may be made; `now` or later."""
        self._refill(now)
        return now + max(0.0, 1 - self._left) * self._settings.every_s

    def take(self, now: float) -> None:
        """An attempt is made."""
        self._refill(now)
        self._left -= 1

    def _refill(self, now: float) -> None:
        gained = max(0.0, now - self._at) / self._settings.every_s
        self._left, self._at = min(float(self._settings.burst), self._left + gained), max(now, self._at)
