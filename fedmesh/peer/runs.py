"""The runs of this node: charters that come or are signed here, a `Run` for each, and what they keep on the disk.

::

    FOLDER/runs/RUN/    charter, ballot, certificates, learning/
    FOLDER/runs/ended   hashes of charters whose run was removed: it is not begun again with an empty ballot
    FOLDER/blobs/       models, states and scenarios that runs name
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedmesh.errors import ChainError, ConfigError, DecodeError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.files import read_bounded, write_atomically
from fedmesh.identity import Membership
from fedmesh.mesh.membership import Member, State
from fedmesh.mesh.rounds import Charter, counted_out, open_charter
from fedmesh.mesh.rounds.charter import MAX_CHARTER_BYTES, read_charter
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.blob_exchange import BlobExchange
from fedmesh.peer.blobs import BlobStore
from fedmesh.peer.charter_gossip import MAX_CHARTERS, VERSION, CharterGossip, Outgoing
from fedmesh.peer.keys import RosterKeys
from fedmesh.peer.learning import Learning
from fedmesh.peer.packets import Packets
from fedmesh.peer.run import CHARTER, Means, Run
from fedmesh.secagg import Identity
from fedmesh.transport.peers import PeerTransport
from fedmesh.types import PeerId

__all__ = ["BLOBS", "RUNS", "Runs"]

RUNS, BLOBS = "runs", "blobs"
RIGHT = "runs"
"""Of the roster (`fedmesh.identity.lists.RIGHTS`): who has it may sign a charter."""
_ENDED = "ended"
_MOST_ENDED = 4096
_LOOK_S = 5.0
_PACKET = 3
_HEAD = 2 + 32


class AnyRun(Protocol):
    """A run on this node, by whichever rules: `fedmesh.peer.run.Run` says what each is."""

    charter: Charter
    begun: float

    @property
    def is_member(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def is_live(self) -> bool: ...
    @property
    def named(self) -> set[bytes]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def status(self) -> dict[str, Any]: ...
    def begin(self) -> None: ...
    def received(self, sender: PeerId, data: bytes) -> None: ...
    def alive_changed(self) -> None: ...
    async def aclose(self) -> None: ...


class Runs:
    """Of one node.

    Args:
        folder: of the node. keys: of the newest roster. members: who is known, and what each is held to be.
        max_bytes: longest message that the transport takes.
        learning: what trains; None: this node votes only.
        settle_s: so long after a start, who was not heard of yet is held alive: one that knows nobody yet must not
            think that it coordinates.
        spare_s: so long a blob stays that no run names: somebody may be about to start one.

    Raises:
        ConfigError: the folder cannot be used, or a run in it is damaged.
    """

    def __init__(
        self,
        membership: Membership,
        transport: PeerTransport,
        *,
        folder: Path,
        keys: RosterKeys,
        members: Callable[[], Iterable[Member]],
        max_bytes: int,
        learning: Learning | None = None,
        settle_s: float = 10.0,
        spare_s: float = 60.0,
        events: EventSink = ignore,
    ) -> None:
        self._membership, self._folder, self._keys = membership, folder / RUNS, keys
        self._members, self._learning, self._events = members, learning, events
        self._loop = asyncio.get_running_loop()
        self._counts: Counter[str] = Counter()
        self.blobs = BlobStore(folder / BLOBS)
        self.exchange = BlobExchange(
            transport.channel("blobs"), self.blobs, others=lambda: transport.links, events=events
        )
        self._channel = transport.channel("rounds")
        self._packets = Packets(self._channel, max_bytes=max_bytes, events=events)
        self.gossip = CharterGossip(opened=self._opened, accepted=self._accepted)
        self._settled_at, self._spare_s = self._loop.time() + settle_s, spare_s
        self._settling = Alarm(self.alive_changed)
        self._means = Means(
            membership.name.id,
            Identity(membership.signing_key()),
            self.blobs,
            self.exchange,
            learning,
            max_bytes=max_bytes - _HEAD,
            send=self._send,
            alive=self._alive,
            certified=self._sweep,
            events=events,
        )
        self.all: dict[bytes, AnyRun] = {}
        self._take_up()

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused or lost of charters and packets, by reason."""
        total = Counter(self._counts) + Counter(self.gossip.counts) + Counter(self._packets.counts)
        for run in self.all.values():
            total += Counter(run.counts)
        return total

    @property
    def newest(self) -> AnyRun | None:
        """The run that was begun last, of those that go on here."""
        return next((run for run in reversed(self.all.values()) if run.is_live), None)

    @property
    def status(self) -> list[dict[str, Any]]:
        """Of each that is known, the oldest first."""
        return [run.status for run in self.all.values()]

    def may_start(self, name: PeerId) -> bool:
        """Whether the roster gives this member the right to start runs."""
        return self._membership.roster.has_right(name, RIGHT)

    def start(self) -> None:
        """Goes on with what was under way."""
        self._settling.set(self._settled_at)
        for run in list(self.all.values()):
            run.begin()
        self._sweep()

    def begin(self, charter: Charter) -> None:
        """Begins a run whose charter was signed here. Raises: ConfigError: it cannot be kept, or there is no room."""
        self._take(charter)
        self._tell(self.gossip.put(charter))

    def connected(self, peer: PeerId) -> None:
        """There is a link."""
        self._tell(self.gossip.connected(peer))
        self.exchange.connected()

    def disconnected(self, peer: PeerId) -> None:
        """There is none any more."""
        self._tell(self.gossip.disconnected(peer, self._loop.time()))

    def alive_changed(self) -> None:
        """Somebody is held to be something else."""
        for run in list(self.all.values()):
            run.alive_changed()

    def roster_changed(self) -> None:
        """A newer list counts from now on."""
        self._tell(self.gossip.roster_changed(self._loop.time()))
        self.alive_changed()

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        async for peer, data in self._channel.receive():
            if data[:2] != bytes([VERSION, _PACKET]):
                self._tell(self.gossip.received(peer, data, self._loop.time()))
            elif (run := self.all.get(data[2:_HEAD])) is None or not run.is_member:
                self._counts["run"] += 1
            elif self._keys(peer) != run.charter.members.get(peer):
                self._counts["name"] += 1  # no member, or counted out
            else:
                run.received(peer, data[_HEAD:])

    async def run(self) -> None:
        """For ever: looks after questions that nobody answers."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._tell(self.gossip.tick(self._loop.time()))

    async def aclose(self) -> None:
        """Nothing is sent or done any more."""
        self._settling.cancel()
        for run in self.all.values():
            await run.aclose()
        await self.exchange.aclose()
        await self._packets.aclose()
        if self._learning is not None:
            await self._learning.aclose()

    def _alive(self, charter: Charter) -> frozenset[str]:
        known = {member.name: member.state for member in self._members()}
        unheard = State.ALIVE if self._loop.time() < self._settled_at else State.DEAD
        here = {name for name in charter.members if known.get(name, unheard) <= State.SUSPECT}
        return frozenset((here | {self._means.name}) - counted_out(charter, self._keys))

    def _send(self, charter: Charter, to: PeerId, data: bytes) -> None:
        self._packets.send(to, bytes([VERSION, _PACKET]) + charter.hash + data)

    def _tell(self, outgoing: list[Outgoing]) -> None:
        for item in outgoing:
            self._packets.send(item.to, item.data)

    def _sweep(self) -> None:
        """Removes what no run names, unless a round that is under way may still come to it."""
        named = {digest for run in self.all.values() for digest in run.named}
        self.exchange.only(named)
        begun = min((run.begun for run in self.all.values() if run.is_live), default=self._loop.time())
        self.blobs.sweep(named, time.monotonic() - (self._loop.time() - begun) - self._spare_s)

    # Charters.

    def _opened(self, raw: bytes, vouchers: Collection[PeerId]) -> Charter:
        mesh = self._membership.name.mesh
        charter = open_charter(raw, mesh=mesh, key_of=self._keys, may_charter=self.may_start, vouchers=vouchers)
        if any(run.charter.run == charter.run for run in self.all.values()):
            raise ChainError(f"two charters of one run, {charter.run.hex()}, came", code="charter")
        return charter

    def _accepted(self, charter: Charter) -> bool:
        """Takes part in what a neighbour told of; False: it cannot."""
        try:
            self._take(charter)
        except ConfigError as error:
            self._events(Notice(f"a run of {charter.task} is not taken part in: {error}"))
            return False
        return True

    def _take(self, charter: Charter) -> None:
        """Keeps it, and takes part."""
        if len(self.all) >= MAX_CHARTERS and not self._has_made_room():
            raise ConfigError(f"{len(self.all)} runs are known here, and none of them is over: wait for one")
        folder = self._folder / charter.run.hex()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error
        write_atomically(folder / CHARTER, charter.raw)
        run = self.all[charter.hash] = self._made(charter, folder)
        run.begin()

    def _made(self, charter: Charter, folder: Path) -> AnyRun:
        if charter.kind == "rounds":
            return Run(charter, folder, self._means)
        from fedmesh.peer.averaging_run import AveragingRun  # where one is: it takes memory

        return AveragingRun(charter, folder, self._means)

    def _has_made_room(self) -> bool:
        """Removes the oldest run that is over, or else the oldest that is others'."""
        runs = list(self.all.items())
        spare = [item for item in runs if item[1].is_over] or [item for item in runs if not item[1].is_member]
        if not spare:
            return False
        digest, run = spare[0]
        ended = [*self._ended(), digest][-_MOST_ENDED:]
        write_atomically(self._folder / _ENDED, b"".join(ended))
        del self.all[digest]
        self.gossip.forget(digest)
        shutil.rmtree(self._folder / run.charter.run.hex(), ignore_errors=True)
        return True

    def _ended(self) -> list[bytes]:
        path = self._folder / _ENDED
        data = read_bounded(path, 32 * _MOST_ENDED) if path.exists() else b""
        return [data[at : at + 32] for at in range(0, len(data), 32)]

    def _take_up(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths = sorted(self._folder.glob(f"*/{CHARTER}"), key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"cannot use the folder {self._folder}: {error.strerror}") from error
        ended = self._ended()
        for digest in ended:
            self.gossip.forget(digest)
        for path in paths:
            try:  # it was believed when it was put here; the roster may say something else by now
                charter = read_charter(read_bounded(path, MAX_CHARTER_BYTES, called="the charter"))
            except DecodeError as error:
                raise ConfigError(f"{path} is damaged: remove the folder of this run; it takes no part") from error
            if charter.hash not in ended:  # else it was killed while it removed it
                self.all[charter.hash] = self._made(charter, path.parent)
                self.gossip.put(charter)
