"""What a device does with announcements: it looks at one neighbour's metadata at a time, until that is verified.

A pointer is a reason to look. All metadata of a look is of the neighbour that announced it, so that whoever forges some
is known, and banned; what a timestamp or snapshot leads to is asked for at once, before anything is verified. What has
its SHA-256 in its name, which signatures vouch for, is then taken of anybody. A device announces only what it has
verified: a lie gets no further than to who is told it.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from fedmesh.errors import ConfigError, FedMeshError, RegistryError
from fedmesh.mesh.swarm.held import Held
from fedmesh.mesh.swarm.holdings import CHUNKS, chunk_digest
from fedmesh.mesh.swarm.public import TIMESTAMP, names_behind
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.mesh.swarm.source import SwarmSource
from fedmesh.mesh.swarm.swarm import Outgoing, Swarm
from fedmesh.registry.limits import Limits
from fedmesh.registry.pointer import Pointer
from fedmesh.transport.backoff import Backoff

__all__ = ["Delivery"]

_FORGED = frozenset(["malformed", "signature", "rollback", "hash", "oversize"])
_LONGEST_S = 600.0


class Verified(Protocol):
    """What of a `fedmesh.registry.install.Installer` is asked here."""

    @property
    def seen(self) -> int:
        """The number of the newest timestamp that was verified."""
        ...

    @property
    def public(self) -> Mapping[str, bytes]:
        """The metadata that was."""
        ...


class Delivery:
    """Of one device. After each call of `swarm`, `advance` is called; while `is_due`, `Installer.update` is.

    Args:
        pinned: SHA-256 of files whose chunks are never removed, beside what is in slots and what is being fetched.
        source: the installer's; `installer` is asked what it has verified, and never while it is at work.

    Attributes:
        is_due: the installer's `update` is to be called, behind `SwarmSource.begin`, and then `updated`.
    """

    def __init__(
        self,
        swarm: Swarm,
        held: Held,
        source: SwarmSource,
        *,
        installer: Verified,
        rng: random.Random,
        settings: Settings | None = None,
        pinned: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        self.is_due = False
        self._swarm, self._held, self._source, self._rng = swarm, held, source, rng
        self._keep = pinned
        self._settings = settings or Settings()
        self._backoff = Backoff(rng, first_s=self._settings.looks_s, longest_s=_LONGEST_S)
        self._installer = installer
        self._unfinished = True
        self._guide = ""
        self._looked: Pointer | None = None
        self._file = ""
        self._blob_since: float | None = None
        self._look_at = self._now = 0.0
        self._came: set[str] = set()
        self._behind: list[str] = []
        self._silent: set[str] = set()
        held.adopt(installer.public)

    @property
    def due(self) -> float:
        """When `advance` is to be called, at the latest."""
        times = [self._look_at] if not self.is_due and not self._file and self._look_at > self._now else []
        if self._blob_since is not None and self._is_delta:
            times.append(self._blob_since + self._settings.delta_s)
        return min(times, default=float("inf"))

    def look(self) -> None:
        """To be called now and then: something may have to be done though nothing new was announced."""
        self._unfinished = True

    def advance(self, now: float) -> list[Outgoing]:
        """What is to be sent because something came, or time has passed."""
        self._now = now
        if self.is_due:
            return []
        if self._file and self._swarm.found is not None:
            return self._file_found(now)
        if self._blob_since is not None:
            self._blob_looked_at(now)
        if not self.is_due and not self._file and now >= self._look_at:
            self._begin(now)
        return []

    def updated(self, error: FedMeshError | None, now: float) -> list[Outgoing]:
        """`Installer.update` has returned, or raised `error`."""
        self.is_due = False
        wanted = self._source.wanted
        self._held.refresh()
        self._held.adopt(self._installer.public)
        if wanted is not None:
            return self._want(*wanted, now)
        verified = error is None or self._source.vouched
        self._blob_since = None
        forged = not verified and isinstance(error, RegistryError) and error.code in _FORGED
        lied = forged or (verified and self._is_behind_what_was_said)
        out = self._verified(now) if verified else []
        if lied:
            out += self._swarm.blame(self._guide, "metadata" if forged else "pointer", now)
        settled = verified and (error is None or (isinstance(error, RegistryError) and error.code != "missing"))
        self._unfinished = self._unfinished and not settled
        if settled:
            self._backoff.reset()
            self._silent.clear()
        if lied:
            self._look_at = now + self._settings.looks_s
        else:  # what was found is true: the next news is not waited with
            self._look_at = now if settled else now + self._backoff.next_s()
        self._looked = None
        return out

    def _begin(self, now: float) -> None:
        """A look at one of those who announced the newest, if that is news."""
        able = self._guides(now)
        if not able:
            return
        newest = max(pointer.timestamp for _, pointer in able)
        self._guide, self._looked = self._rng.choice([item for item in able if item[1].timestamp == newest])
        self._look_at = now + self._settings.looks_s
        self._source.look()
        self._came.clear()
        self._behind.clear()
        self._blob_since, self.is_due = None, True

    def _guides(self, now: float) -> list[tuple[str, Pointer]]:
        """Who announced something new; who gave nothing in the last looks only where there is nobody else."""
        least = self._installer.seen + (0 if self._unfinished else 1)
        if self._looked is not None:
            least = max(least, self._looked.timestamp + 1)
        able = [(one.name, one.pointer) for one in self._swarm.neighbours.askable(now) if one.pointer is not None]
        able = [(name, pointer) for name, pointer in able if pointer.timestamp >= least]
        return [item for item in able if item[0] not in self._silent] or able

    def _want(self, name: str, max_bytes: int, now: float) -> list[Outgoing]:
        """Asks for what was not here."""
        if name in self._came:  # and cannot be read: this disk is broken
            return self._failed(now)
        if not name.startswith(CHUNKS):
            return self._ask_for(name, max_bytes, now)
        blob = self._held.blob_with(chunk_digest(name))
        if blob is None:
            return self._failed(now)
        self._blob_since = now
        out = self._swarm.want_blob(blob, now) + self._swarm.changed(now)
        if self._swarm.is_complete:  # all is here, and cannot be read: this disk is broken
            return out + self._failed(now)
        return out + self.advance(now)

    def _file_found(self, now: float) -> list[Outgoing]:
        found = self._swarm.found
        assert found is not None
        name, self._file = self._file, ""
        self._came.add(name)
        if found.data is None:
            if not (found.refused and name.endswith(".root.json")):  # silence does not say that there is no newer root
                self._silent.add(self._guide)
                return self._failed(now)
            self._source.gone.add(name)
            self._behind.append(TIMESTAMP)
        elif name.startswith("metadata/"):
            self._source.files[name] = found.data
            self._behind += names_behind(name, found.data)
        else:
            try:
                self._held.learn(name, found.data)
            except (ConfigError, RegistryError):
                return self._failed(now)
        return self._onward(now)

    def _onward(self, now: float) -> list[Outgoing]:
        """Asks for the next file that the installer will ask for; without one it is its turn."""
        while self._behind:
            name = self._behind.pop()
            if name not in self._source.files and (name == TIMESTAMP or self._held.read(name) is None):
                return self._ask_for(name, Limits().metadata_bytes, now)
        self.is_due = True
        return []

    def _ask_for(self, name: str, max_bytes: int, now: float) -> list[Outgoing]:
        self._file = name
        alone = name.startswith("metadata/")
        return self._swarm.want_file(name, max_bytes, now, guide=self._guide, alone=alone) + self.advance(now)

    def _blob_looked_at(self, now: float) -> None:
        blob, since = self._swarm.fetching, self._blob_since
        if blob is None:  # the disk was full
            self._held.collect(self._pinned(), 0)
            self._failed(now)
        elif self._swarm.is_complete:
            self._blob_since, self.is_due = None, True
        elif self._is_delta and since is not None and now >= since + self._settings.delta_s:
            missing = ((1 << len(blob.chunks)) - 1) & ~self._held.mask(blob)
            if any(one.masks.get(blob.sha256, 0) & missing for one in self._swarm.neighbours):
                self._blob_since = now
                return
            wanted = self._source.wanted
            assert wanted is not None
            self._source.gone.add(wanted[0])
            self._blob_since, self.is_due = None, True

    @property
    def _is_delta(self) -> bool:
        """Whether a delta is what is being fetched."""
        blob = self._swarm.fetching
        return blob is not None and self._held.is_delta(blob.sha256)

    def _failed(self, now: float) -> list[Outgoing]:
        """This look comes to nothing: another is made later, of somebody else perhaps."""
        self._unfinished, self._looked, self._blob_since = True, None, None
        others = any(name not in self._silent for name, _ in self._guides(now))
        self._look_at = now + (self._settings.looks_s if others and self._silent else self._backoff.next_s())
        return []

    def _verified(self, now: float) -> list[Outgoing]:
        self._held.sweep()
        self._held.collect(self._pinned(), self._settings.store_bytes)
        return self._swarm.changed(now)

    @property
    def _is_behind_what_was_said(self) -> bool:
        """Whether the neighbour that was looked at announced more than it had."""
        return self._looked is not None and self._installer.seen < self._looked.timestamp

    def _pinned(self) -> list[bytes]:
        blob = self._swarm.fetching
        return [*self._keep(), *([] if blob is None or self._swarm.is_complete else [blob.sha256])]
