"""Where members were: a small book on the disk, so that a device finds its mesh again where nobody announces anything.

Ordered by when an address last led to its member, counted and not dated: a Pi has no clock. What a member says of
itself comes after what worked. Bounded, written as a whole, and begun anew when it is damaged: it holds only hints.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.files import read_bounded, write_atomically
from fedmesh.identity.names import is_id
from fedmesh.mesh.discovery.addresses import Address, address_in, text_of
from fedmesh.wire import dumps, loads

__all__ = ["Book"]

_FORMAT = "fedmesh-addresses/1"
_EACH = 4
"""Addresses of one member that worked, and as many that it says."""
_MAX_BYTES = 1 << 20
_LARGEST = 1 << 62


class Book:
    """Addresses by member.

    Args:
        path: the file; None: nothing outlives the process.
        members: most that are kept; the one that was met longest ago gives way.
        events: told when the file was damaged.

    Attributes:
        is_changed: whether there is something to save.
    """

    def __init__(self, path: Path | None = None, *, members: int = 1024, events: EventSink = ignore) -> None:
        self.is_changed = False
        self._path, self._members = path, members
        self._entries: dict[str, dict[Address, int]] = {}
        if path is not None and path.exists():
            try:
                self._entries = _read(path, members)
            except (ConfigError, DecodeError) as error:
                events(Notice(f"the book of addresses {path} is begun anew, it is damaged: {error}"))
        self._turn = max((turn for entry in self._entries.values() for turn in entry.values()), default=0)

    def __len__(self) -> int:
        return len(self._entries)

    def addresses(self, name: str) -> list[Address]:
        """Those that worked, the last one first, and then those that it says."""
        entry = self._entries.get(name, {})
        return sorted(entry, key=entry.__getitem__, reverse=True)

    def said(self, name: str) -> list[Address]:
        """Those of them that never worked here: with the scopes of who says them."""
        return [address for address, turn in self._entries.get(name, {}).items() if not turn]

    def best(self, without: Collection[str] = ()) -> list[tuple[str, Address]]:
        """Names and addresses: those that worked, the last one first, and then those that were only said."""
        wanted = [(name, entry) for name, entry in self._entries.items() if name not in without]
        every = [(turn, name, address) for name, entry in wanted for address, turn in entry.items()]
        return [(name, address) for _, name, address in sorted(every, reverse=True)]

    def succeeded(self, name: str, address: Address) -> None:
        """`name` was at `address`, by its certificate."""
        entry = self._entry(name)
        self._turn += 1
        entry[address] = self._turn
        worked = sorted((turn, each) for each, turn in entry.items() if turn)
        for _, each in worked[:-_EACH]:
            del entry[each]
        self.is_changed = True

    def told(self, name: str, addresses: Iterable[Address]) -> None:
        """`name` says, signed, that it is there: instead of what it said before."""
        said = list(dict.fromkeys(addresses))[:_EACH]
        entry = self._entry(name)
        worked = {address: turn for address, turn in entry.items() if turn}
        new = worked | {address: 0 for address in said if address not in worked}
        if new != entry:
            self._entries[name] = new
            self.is_changed = True

    def forget(self, name: str) -> None:
        """It is no member any more."""
        if self._entries.pop(name, None) is not None:
            self.is_changed = True

    def save(self) -> None:
        """Writes what has changed. Raises: ConfigError: it cannot be written; it is tried again with the next call."""
        if self.is_changed:
            self.write(self.taken())

    def taken(self) -> bytes:
        """What is to be written now, for `write` in a thread; `is_changed` means from now on: since then."""
        self.is_changed = False
        return self.encoded()

    def write(self, data: bytes) -> None:
        """Writes `data`. Raises: ConfigError: as `save`."""
        try:
            if self._path is not None:
                write_atomically(self._path, data, mode=0o600)
        except ConfigError:
            self.is_changed = True
            raise

    def encoded(self) -> bytes:
        """The whole, as it is written."""
        entries = [
            [name, [[text_of(address), turn] for address, turn in entry.items()]]
            for name, entry in self._entries.items()
        ]
        return dumps([_FORMAT, entries])

    def _entry(self, name: str) -> dict[Address, int]:
        if name not in self._entries:
            while len(self._entries) >= self._members:
                del self._entries[min(self._entries, key=lambda each: max(self._entries[each].values(), default=0))]
            self._entries[name] = {}
        return self._entries[name]


def _read(path: Path, members: int) -> dict[str, dict[Address, int]]:
    data = read_bounded(path, _MAX_BYTES, called="the book of addresses")
    match loads(data, max_bytes=_MAX_BYTES, max_depth=5):
        case [format_, list(entries)] if format_ == _FORMAT:
            return dict([_entry_in(entry) for entry in entries][:members])
    raise DecodeError(f"it does not begin with {_FORMAT}")


def _entry_in(entry: object) -> tuple[str, dict[Address, int]]:
    match entry:
        case [str(name), list(addresses)] if is_id(name) and len(addresses) <= 2 * _EACH:
            return name, dict(_address_in(each) for each in addresses)
    raise DecodeError("an entry is a name and at most eight addresses")


def _address_in(each: object) -> tuple[Address, int]:
    match each:
        case [str(text), int(turn)] if type(turn) is int and 0 <= turn < _LARGEST:
            return address_in(text), turn
    raise DecodeError("an address comes with the number of its last success")
