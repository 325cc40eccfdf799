"""What a device asks of its neighbours: one small file and one file in chunks at a time, each answer checked.

Every request has a time in which something has to come. A chunk that is another one, or a file that has not
the SHA-256 in its name, bans who sent it: TLS carries no errors, and nobody gives away what it has not verified.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.mesh.swarm.download import Download
from fedmesh.mesh.swarm.filefetch import FileFetch
from fedmesh.mesh.swarm.holdings import Holdings, is_whole
from fedmesh.mesh.swarm.messages import Cancel, Message, Piece, Refusal, Request
from fedmesh.mesh.swarm.neighbours import Asked, Neighbour, Neighbours
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.registry.manifest import Blob
from fedmesh.registry.source import chunk_name

__all__ = ["Found", "Taking"]

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a small file: its bytes; None: nobody who was asked gives it.

    `by`: who gave it; `refused`: who was asked last said that it is not there, instead of nothing.
    """

    name: str
    data: bytes | None
    by: str = ""
    refused: bool = False


class Taking:
    """What is wanted, and what is under way for it.

    Attributes:
        download: the file in chunks; None: none is wanted.
        found: the small file that was wanted last, once that is known.
        wasted: bytes that came too late to be of use.
    """

    def __init__(
        self,
        holdings: Holdings,
        neighbours: Neighbours,
        settings: Settings,
        rng: random.Random,
        post: Callable[[str, Message], None],
    ) -> None:
        self.download: Download | None = None
        self.found: Found | None = None
        self.wasted = 0
        self._holdings, self._neighbours, self._settings = holdings, neighbours, settings
        self._rng, self._post = rng, post
        self._file: FileFetch | None = None
        self._number = 0

    def want_file(self, name: str, max_bytes: int, guide: str, now: float, *, alone: bool) -> None:
        """A small file, in place of the one before, of `guide` first; `alone`: and of nobody else."""
        self.drop_file()
        self.found, self._file = None, FileFetch(name, max_bytes, guide, alone)
        self._next_source(now)

    def drop_file(self) -> None:
        """No small file is wanted any more."""
        if self._file is not None and (one := self._neighbours.get(self._file.peer)) is not None:
            self._cancel(one, self._file.number)
        self._file = None

    def want_blob(self, blob: Blob | None) -> None:
        """A file in chunks, in place of the one before; what came of that stays. None: none."""
        if self.download is not None and self.download.blob == blob and not self.download.is_complete:
            return
        for one in self._neighbours:
            for item in [item for item in one.asked.values() if item.index >= 0]:
                self._cancel(one, item.number)
        mask = 0 if blob is None else self._holdings.mask(blob)
        self.download = None if blob is None else Download(blob, mask, self._settings, self._rng)

    def plan(self, now: float) -> None:
        """Asks for what can be asked for."""
        if self.download is None:
            return
        able = self._neighbours.askable(now)
        for slow, item, other in self.download.overdue(able, now):
            self._cancel(slow, item.number)
            self._ask_chunk(other, item.index, now)
        for one, index in self.download.plan(able, now):
            self._ask_chunk(one, index, now)

    def piece(self, neighbour: Neighbour, piece: Piece, now: float) -> None:
        """An answer came."""
        asked = neighbour.asked.pop(piece.number, None)
        if asked is None:
            if piece.number >= self._number:
                self._ban(neighbour, "unasked", now)
            else:  # cancelled, or given up
                self._neighbours.counts["late"] += 1
                self.wasted += len(piece.data)
            return
        neighbour.answered, neighbour.strikes = now, 0
        if asked.index >= 0:
            self._chunk(neighbour, asked, piece.data, now)
        elif self._file is not None and self._file.number == asked.number:
            self._file_piece(self._file, neighbour, piece, now)

    def refused(self, neighbour: Neighbour, refusal: Refusal, now: float) -> None:
        """The other kind of answer."""
        asked = neighbour.asked.pop(refusal.number, None)
        if asked is None:
            return
        neighbour.answered = now
        if asked.index < 0:
            if self._file is not None and self._file.number == refusal.number:
                self._next_source(now, refused=True)
            return
        assert self.download is not None
        self.download.failed(asked.index)
        blob = self.download.blob.sha256
        if blob in neighbour.masks:
            neighbour.masks[blob] &= ~(1 << asked.index)
        if refusal.code != "busy":
            self._neighbours.missed(neighbour, now)

    def gone(self, neighbour: Neighbour, now: float) -> None:
        """It does not answer any more, for whatever reason: what was under way is asked of others."""
        items = list(neighbour.asked.values())
        neighbour.asked.clear()
        for item in items:
            if item.index >= 0:
                assert self.download is not None
                self.download.failed(item.index)
        if self._file is not None and self._file.peer == neighbour.name:
            self._next_source(now)

    def expire(self, now: float) -> None:
        """Gives up what was not answered in time."""
        for one in list(self._neighbours):
            if one.asked and self._ends(one) <= now:
                self._neighbours.strike(one, now)
                one.answered = now
                for item in list(one.asked.values()):
                    self._post(one.name, Cancel(item.number))
                self.gone(one, now)

    def due(self, now: float) -> float:
        """When `expire` or `plan` is to be called."""
        times = [self._ends(one) for one in self._neighbours if one.asked]
        if self.download is not None and not self.download.is_complete:
            after_s = (self.download.overdue_s, self.download.waiting_s)
            chunks = [item for one in self._neighbours for item in one.asked.values() if item.index >= 0]
            overdue = [item.at + late_s for item in chunks for late_s in after_s]
            times += [at for at in overdue if at > now]
            times.append(self._neighbours.next_pardon(now))
        return min(times, default=_FOREVER)

    def _ends(self, one: Neighbour) -> float:
        return max(one.answered, min(item.at for item in one.asked.values())) + self._settings.request_s

    def _chunk(self, neighbour: Neighbour, asked: Asked, data: bytes, now: float) -> None:
        assert self.download is not None
        blob = self.download.blob
        self.download.failed(asked.index)
        if len(data) != blob.length_of(asked.index):
            self._ban(neighbour, "chunk", now)
            return
        try:
            self._holdings.put(blob.chunks[asked.index], data)
        except RegistryError:
            self._ban(neighbour, "chunk", now)
        except ConfigError:
            self._neighbours.counts["storage"] += 1
            self.want_blob(None)
        else:
            for index, digest in enumerate(blob.chunks):  # a file may have equal chunks
                if digest == blob.chunks[asked.index] and self.download.missing >> index & 1:
                    self.download.came(index, now - asked.at)
            neighbour.took_s += ((now - asked.at) - neighbour.took_s) / 2

    def _file_piece(self, file: FileFetch, neighbour: Neighbour, piece: Piece, now: float) -> None:
        match file.take(piece):
            case True if is_whole(file.name, file.data):
                self.found, self._file = Found(file.name, file.data, neighbour.name), None
            case False:
                self._ask_file(file, neighbour, now)
            case _:
                self._ban(neighbour, "oversize" if piece.size > file.max_bytes else "file", now)

    def _next_source(self, now: float, *, refused: bool = False) -> None:
        """Asks the next neighbour for the small file; without one it is not to be had."""
        file = self._file
        if file is None:
            return
        able = [one for one in self._neighbours.askable(now) if one.name not in file.tried]
        first = [one for one in able if one.name == file.guide]
        able = first or ([] if file.alone else able)
        if not able:
            self.found, self._file = Found(file.name, None, refused=refused), None
            return
        chosen = self._rng.choice(able)
        file.begin(chosen.name)
        self._ask_file(file, chosen, now)

    def _ask_file(self, file: FileFetch, one: Neighbour, now: float) -> None:
        offset, length = file.next_piece
        file.number = self._ask(one, file.name, offset, length, now=now)

    def _ask_chunk(self, one: Neighbour, index: int, now: float) -> None:
        assert self.download is not None
        blob = self.download.blob
        self._ask(one, chunk_name(blob.chunks[index]), 0, blob.length_of(index), index=index, now=now)

    def _ask(self, one: Neighbour, name: str, offset: int, length: int, *, index: int = -1, now: float) -> int:
        number = self._number
        self._number += 1
        if not one.asked:
            one.answered = now
        one.asked[number] = Asked(number, name, offset, length, index, now)
        self._post(one.name, Request(number, name, offset, length))
        return number

    def _cancel(self, one: Neighbour, number: int) -> None:
        if one.asked.pop(number, None) is not None:
            self._post(one.name, Cancel(number))

    def _ban(self, neighbour: Neighbour, reason: str, now: float) -> None:
        self._neighbours.ban(neighbour, reason, now)
        self.gone(neighbour, now)
