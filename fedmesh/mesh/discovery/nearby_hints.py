"""The hints of what is nearby: from anybody on the link, so there is a bound to how many, and to how long each lasts.

When there are too many, one that never led to a member gives way by lot, whoever came first: neither who floods before
the others come, nor who floods after them, decides alone which are left.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from fedmesh.mesh.discovery.addresses import Address
from fedmesh.mesh.discovery.hints import Hint
from fedmesh.mesh.discovery.settings import Settings

__all__ = ["NearbyHints"]


@dataclass(slots=True)
class _Entry:
    failures: dict[Address, int]
    names: dict[Address, str] = field(default_factory=dict)
    withdrawn: bool = False


class NearbyHints:
    """What was heard and has not expired."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._settings, self._rng = settings, rng
        self._entries: dict[str, _Entry] = {}
        self._spent: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def offer(self, hint: Hint) -> bool:
        """Takes a hint, instead of the last one of its key; what is known of addresses that stay is kept.

        False: it expired a moment ago, and this is the same announcement.
        """
        if hint.at < self._spent.get(hint.key, 0.0) or not hint.addresses:
            return False
        self._spent.pop(hint.key, None)
        old = self._entries.pop(hint.key, _Entry({}))
        addresses = dict.fromkeys(hint.addresses[: self._settings.addresses])
        while len(self._entries) >= self._settings.nearby:
            self._evict()
        self._entries[hint.key] = _Entry(
            {address: old.failures.get(address, 0) for address in addresses},
            {address: name for address, name in old.names.items() if address in addresses},
        )
        return True

    def withdraw(self, key: str) -> None:
        """Somebody says that it is not there any more, and that may be a lie as well: it is tried once more at most."""
        if key in self._entries:
            self._entries[key].withdrawn = True

    def live(self) -> Iterator[tuple[str, list[tuple[Address, str]]]]:
        """Key, addresses, and who was there last (or empty), the address with the fewest failures first."""
        for key, entry in self._entries.items():
            alive = sorted((a for a in entry.failures if not self._is_spent(entry, a)), key=entry.failures.__getitem__)
            if alive:
                yield key, [(address, entry.names.get(address, "")) for address in alive]

    def reached(self, key: str, address: Address, name: str) -> None:
        """`name` is there."""
        entry = self._entries.get(key)
        if entry is not None and address in entry.failures:
            entry.failures[address], entry.names[address], entry.withdrawn = 0, name, False

    def failed(self, key: str, address: Address, now: float) -> None:
        """It was refused or did not answer: after some times the address is spent, and with the last one the hint."""
        entry = self._entries.get(key)
        if entry is None or address not in entry.failures:
            return
        entry.failures[address] += 1
        entry.names.pop(address, None)
        if all(self._is_spent(entry, each) for each in entry.failures):
            del self._entries[key]
            while len(self._spent) >= 4 * self._settings.nearby:
                del self._spent[next(iter(self._spent))]
            self._spent[key] = now + self._settings.forget_s

    def _is_spent(self, entry: _Entry, address: Address) -> bool:
        return entry.failures[address] >= (1 if entry.withdrawn else self._settings.tries)

    def _evict(self) -> None:
        gone = [key for key, entry in self._entries.items() if entry.withdrawn]
        strange = [key for key, entry in self._entries.items() if not entry.names]
        del self._entries[self._rng.choice(gone or strange or list(self._entries))]
