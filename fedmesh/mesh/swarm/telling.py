"""Who is told which chunks are here: whoever wants a file, when something changed and not too often, and whom one asks.

An origin, which has what nobody else has, tells each a part (`fedmesh.mesh.swarm.seeding`).
"""

import random
from collections.abc import Callable, Iterable

from fedmesh.mesh.swarm.holdings import Holdings
from fedmesh.mesh.swarm.messages import Bits, Message
from fedmesh.mesh.swarm.neighbours import Neighbour, Neighbours
from fedmesh.mesh.swarm.seeding import Seeding
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.mesh.swarm.uploads import Uploads
from fedmesh.registry.manifest import Blob

__all__ = ["Telling"]

_FOREVER = float("inf")
_AGAIN_S = 1.0
_PIECES_OF_PATIENCE = 4
_SOONER = 4


class Telling:
    """What is said about chunks.

    Args:
        origin: whether this is where files come from: then each chunk is given away once at first.
        post: sends a message.
    """

    def __init__(
        self,
        holdings: Holdings,
        neighbours: Neighbours,
        uploads: Uploads,
        settings: Settings,
        *,
        rng: random.Random,
        post: Callable[[str, Message], None],
        origin: bool,
    ) -> None:
        self._holdings, self._neighbours, self._uploads = holdings, neighbours, uploads
        self._settings, self._rng, self._post, self._origin = settings, rng, post, origin
        self._seedings: dict[bytes, Seeding] = {}

    def heard(self, neighbour: Neighbour, message: Bits, now: float) -> bool:
        """Takes in what a neighbour has; False: that cannot be of this file."""
        blob = self._holdings.blob(message.blob)
        if blob is not None and len(blob.chunks) != message.count:
            return False
        until = now + 3 * self._settings.interest_s if message.wants else None
        neighbour.says(message.blob, message.mask, until)
        _, _, told_at = neighbour.told.get(message.blob, (0, False, now))
        if message.wants and now - told_at >= _AGAIN_S:  # it asks again: what it was told may have been lost
            del neighbour.told[message.blob]
        return True

    def flush(self, fetching: Blob | None, *, wants: bool, now: float) -> float:
        """Tells what is to be told; returns when there is more.

        Args:
            fetching: what is fetched here, or was last; wants: whether something of it is missing.
        """
        due = _FOREVER
        told_parts: dict[bytes, dict[str, int]] = {}
        for neighbour in self._neighbours:
            if self._neighbours.is_banned(neighbour.name, now):
                continue
            for sha256 in self._subjects(neighbour, fetching, now):
                blob = fetching if fetching is not None and fetching.sha256 == sha256 else self._holdings.blob(sha256)
                if blob is None:
                    continue
                mask = self._holdings.mask(blob)
                if self._origin and mask:
                    if sha256 not in told_parts:
                        told_parts[sha256], look_at = self._parts(blob, now)
                        due = min(due, look_at)
                    mask &= told_parts[sha256].get(neighbour.name, 0)
                wanted = wants and blob is fetching
                due = min(due, self._tell(neighbour, blob, mask, wants=wanted, now=now))
        return due

    def _subjects(self, neighbour: Neighbour, fetching: Blob | None, now: float) -> Iterable[bytes]:
        subjects = {sha256: None for sha256, until in neighbour.wants.items() if until > now}
        if fetching is not None:
            subjects[fetching.sha256] = None
        return subjects

    def _tell(self, neighbour: Neighbour, blob: Blob, mask: int, *, wants: bool, now: float) -> float:
        """Says it, if it is time; returns when it will be."""
        said = neighbour.told.get(blob.sha256)
        if said is None:
            at = now if mask or wants else _FOREVER
        else:
            before, wanted, told_at = said
            at = told_at + self._pause_s(neighbour, blob, before ^ mask, changes=wanted != wants, wants=wants)
        if at > now:
            return at
        neighbour.told[blob.sha256] = mask, wants, now
        self._post(neighbour.name, Bits(blob.sha256, len(blob.chunks), mask, wants))
        return now + self._settings.interest_s if wants else _FOREVER

    def _pause_s(self, neighbour: Neighbour, blob: Blob, news: int, *, changes: bool, wants: bool) -> float:
        """After how long a neighbour is told again: soon if nobody asks for anything here, late of what it has."""
        if changes or news & ~neighbour.masks.get(blob.sha256, 0):
            return self._settings.bits_s / (_SOONER if self._uploads.is_idle else 1)
        return self._settings.interest_s if wants or news else _FOREVER

    def _parts(self, blob: Blob, now: float) -> tuple[dict[str, int], float]:
        """What each is told by an origin, and when that is to be looked at again."""
        seeding = self._seedings.get(blob.sha256)
        if seeding is None:
            self._seedings = {known: self._seedings[known] for known in self._seedings if self._is_asked_for(known)}
            seeding = self._seedings[blob.sha256] = Seeding(len(blob.chunks), self._settings.reveal, self._rng)
        masks = {one.name: one.masks[blob.sha256] for one in self._neighbours if blob.sha256 in one.masks}
        patience_s = max(self._settings.patience_s, _PIECES_OF_PATIENCE * self._uploads.piece_s)
        parts = seeding.update(masks, now, patience_s=patience_s, waits=self._uploads.is_busy_for)
        return parts, seeding.next_look(patience_s)

    def _is_asked_for(self, sha256: bytes) -> bool:
        return any(sha256 in one.wants for one in self._neighbours)
