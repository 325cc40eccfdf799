"""A member of a mesh, put together: who is found is connected, who is connected is met, who is met is known to all.

::

    discovery ── found ──> transport ── link ──> membership, lists, swarm, runs
        ^                                            |
        └──── where members say that they are ───────┘
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from fedmesh.configuration import PeerConfig
from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.fleet.freshness import keep_fresh
from fedmesh.identity import Membership
from fedmesh.mesh.discovery import (
    Address,
    Book,
    Discovery,
    Here,
    MulticastOptions,
    Surroundings,
    identify,
    own_addresses,
    text_of,
)
from fedmesh.mesh.discovery import Settings as DiscoverySettings
from fedmesh.mesh.membership import Member, State
from fedmesh.mesh.membership import Settings as MembershipSettings
from fedmesh.peer.learning import Learning
from fedmesh.peer.limits import limits_for
from fedmesh.peer.lists import Lists
from fedmesh.peer.members import Members
from fedmesh.peer.offering import Offering
from fedmesh.peer.runs import Runs
from fedmesh.peer.starting import Starting
from fedmesh.peer.status import StatusServer
from fedmesh.transport.peers import PeerOptions, PeerTransport
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.mesh.swarm import Settings as SwarmSettings
    from fedmesh.peer.bridge import Bridge

__all__ = ["Node", "Settings"]

BOOK = "addresses"
_CONNECT_S = 10.0
_LOOK_S = 5.0
"""So often interfaces are looked at, which takes a millisecond."""
_GOODBYE_S = 0.3
_DOUBTED = {State.SUSPECT, State.DEAD}


class Settings:
    """How the parts of a node do their work; the defaults suit a device.

    Args:
        membership, discovery, swarm: of the cores. runs: of `Runs`. connections: changes of `PeerOptions`.
    """

    def __init__(
        self,
        *,
        membership: MembershipSettings | None = None,
        discovery: DiscoverySettings | None = None,
        swarm: "SwarmSettings | None" = None,
        runs: Mapping[str, float] | None = None,
        **connections: Any,
    ) -> None:
        self.membership, self.discovery, self.swarm, self.runs = membership, discovery, swarm, dict(runs or {})
        self.connections: dict[str, Any] = {"reconnect_max_s": 10.0, **connections}


class Node:
    """One member, while it is entered: then it looks, answers and gives; `run` waits until something fails.

    Args:
        config: of the operator. membership: who it is.
        settings: of its parts.
        offering: makes what gives and takes models. learning: makes what trains, from configuration and membership;
            None: the node votes in runs, and does not train.
        clock: seconds since 1970. events: told what happens.

    Raises:
        ConfigError: on entering: a file cannot be used, or it cannot listen where it should.
    """

    def __init__(
        self,
        config: PeerConfig,
        membership: Membership,
        *,
        settings: Settings | None = None,
        offering: Callable[..., Offering] = Offering,
        learning: Callable[..., Learning] | None = None,
        clock: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self.config, self.membership = config, membership
        self._settings, self._make_offering, self._make_learning = settings or Settings(), offering, learning
        self._clock, self._events = clock, events
        self._limits = limits_for(config.limits.message_mb)
        self.bridge: Bridge | None = None
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.on_presence = lambda _peer, _there: None
        for task in (*self._tasks, *self._connecting):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._connecting, return_exceptions=True)
        await self._stack.aclose()
        if not self._ended.cancel():
            self._ended.exception()  # whoever wanted to know has waited in `run`

    async def run(self) -> None:
        """Until it is cancelled, or a part fails; raises what that raised."""
        await asyncio.shield(self._ended)

    @property
    def status(self) -> dict[str, Any]:
        """What ``fedmesh mesh status --json`` says."""
        newest = self.runs.newest
        under_way = {"round": None, "aggregator": None} if newest is None else newest.status
        return {
            "self": self.membership.name.id,
            "members": [
                {
                    "name": one.name,
                    "state": one.state.name.lower(),
                    "incarnation": one.incarnation,
                    "model": one.model,
                }
                for one in self.members.all
            ],
            "links": sorted(self.transport.links),
            "relayed": self.transport.relayed,
            "bridge": None if self.bridge is None else {self.bridge.coordinator: self.bridge.is_connected},
            "round": under_way["round"],
            "aggregator": under_way["aggregator"],
            "runs": self.runs.status,
        }

    @property
    def counts(self) -> dict[str, Callable[[], Mapping[str, int]]]:
        """By part, what it refused or failed in, by reason: to be watched."""
        found: dict[str, Callable[[], Mapping[str, int]]] = {
            "transport": lambda: self.transport.counts,
            "discovery": lambda: self.discovery.counts,
            "membership": lambda: self.members.counts,
            "lists": lambda: self.lists.counts,
            "rounds": lambda: self.runs.counts,
            "blobs": lambda: self.runs.exchange.counts,
        }
        if (bridge := self.bridge) is not None:
            found["bridge"] = lambda: bridge.counts
        return found | self.offering.counts

    async def _begin(self) -> None:
        mesh = self.config.mesh
        self.transport = await PeerTransport.open(
            self.membership, self._addresses_of, self._options(), limits=self._limits, clock=self._clock
        )
        self._stack.push_async_callback(self.transport.aclose)
        self.discovery = self._discovery()
        self.members = Members(
            self.membership,
            self.transport.channel("members"),
            folder=mesh.folder,
            changed=self._changed,
            heard=self.transport.heard_at,
            settings=self._settings.membership,
            events=self._events,
        )
        self.lists = Lists(
            self.membership, self.transport, changed=self._lists_changed, clock=self._clock, events=self._events
        )
        self.offering = self._make_offering(
            self.config,
            self.membership,
            self.transport.channel("swarm"),
            changed=self._say,
            settings=self._settings.swarm,
            clock=self._clock,
            events=self._events,
        )
        self.runs = self._runs()
        self._stack.push_async_callback(self.runs.aclose)
        self._stack.push_async_callback(self.offering.aclose)
        if self.config.bridge is not None:
            await self._build_bridge()
        self._stack.push_async_callback(self.lists.aclose)
        self.transport.on_presence = self._noticed
        starting = Starting(self.membership, self.runs, keys=self.members.keys, members=lambda: self.members.all)
        status = StatusServer(mesh.folder, {"status": lambda _: self.status, **starting.handlers})
        await status.start()
        self._stack.push_async_callback(status.aclose)
        seeds = {name: [text_of(each) for each in addresses] for name, addresses in self._seeds.items()}
        self.members.start(seeds, self._own(), self.offering.model)
        self.discovery.start()
        self.runs.start()
        self._stack.push_async_callback(self._farewell)
        for peer in self.transport.links:  # it was quicker than we are
            self._noticed(peer, there=True)
        for job in self._jobs():
            task = self._loop.create_task(job)
            task.add_done_callback(self._over)
            self._tasks.append(task)

    async def _build_bridge(self) -> None:
        from fedmesh.peer.bridge import Bridge  # paho: only where it is used

        self.bridge = Bridge(
            self.config, self.membership, lists=self.lists, models=self.offering.taking, events=self._events
        )
        self._stack.push_async_callback(self.bridge.aclose)
        await self.bridge.start()

    def _jobs(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the node does."""
        issuer, changed = self.config.issuer.address, self.lists.renewed
        return [
            self.members.receive(),
            self.lists.receive(),
            self.lists.run(),
            self.offering.receive(),
            self.offering.run(),
            self.runs.receive(),
            self.runs.exchange.receive(),
            self.runs.run(),
            self._upkeep(),
            keep_fresh(self.membership, issuer, changed=changed, clock=self._clock, events=self._events),
            *([] if self.bridge is None else [self.bridge.run()]),
        ]

    async def _farewell(self) -> None:
        await asyncio.gather(self.members.leave(within_s=_GOODBYE_S), self.discovery.aclose())

    def _runs(self) -> Runs:
        make, shared = self._make_learning, {"clock": self._clock, "events": self._events}
        return Runs(
            self.membership,
            self.transport,
            folder=self.config.mesh.folder,
            keys=self.members.keys,
            members=lambda: self.members.all,
            max_bytes=self._limits.message_bytes,
            learning=None if make is None else make(self.config, self.membership, **shared),
            events=self._events,
            **self._settings.runs,
        )

    def _options(self) -> PeerOptions:
        mesh = self.config.mesh
        options = {
            "listen": tuple((each.host, each.port) for each in mesh.listen),
            "connections": mesh.connections,
            "bytes_per_s": mesh.bytes_per_s,
            "relay": mesh.relay,
            **self._settings.connections,
        }
        return PeerOptions(**options)

    def _discovery(self) -> Discovery:
        mesh, section = self.config.mesh, self.config.mesh.discovery
        loopback = all(each.loopback for each in mesh.listen)
        multicast = MulticastOptions(
            interfaces=section.interfaces, instance=section.instance, loopback=loopback, off_link=section.off_link
        )
        return Discovery(
            lambda address, name: identify(address, self.membership, expected=name, clock=self._clock),
            found=self._found,
            here=self._here,
            seeds=self._seeds,
            book=Book(mesh.folder / BOOK, events=self._events),
            port=self.transport.listening[0][1],
            mesh=self.membership.name.mesh,
            multicast=multicast if section.enabled else None,
            loopback=loopback,
            settings=self._settings.discovery,
            around=lambda: Surroundings(own_addresses(section.interfaces, loopback=loopback)),
            events=self._events,
        )

    @property
    def _seeds(self) -> dict[PeerId, list[Address]]:
        named = self.config.mesh.seeds.items()
        own = self.membership.name.id
        return {name: [(each.host, each.port) for each in addresses] for name, addresses in named if name != own}

    def _addresses_of(self, name: PeerId) -> Sequence[Address]:
        return self.discovery.addresses_of(name)

    def _own(self) -> list[str]:
        """Where others are told that we are: as the operator says, or where we listen, or on all interfaces."""
        mesh = self.config.mesh
        if mesh.addresses:
            return [str(each) for each in mesh.addresses]
        listening = self.transport.listening[:4]
        if not any(host in {"0.0.0.0", "::"} for host, _ in listening):  # noqa: S104 - compared, not listened at
            return [text_of(each) for each in listening]
        return self.discovery.own()

    def _here(self) -> Here:
        here = self.members.here
        return Here(frozenset(here.names) | set(self.transport.links), here.addresses, here.absent)

    # What the parts tell.

    def _found(self, name: PeerId, _address: Address) -> None:
        if name not in self.transport.links or name in self.transport.relayed:
            task = self._loop.create_task(self._connect(name), name=f"connect-{name}")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, name: PeerId) -> None:
        try:
            await self.transport.connect(name, wait_s=_CONNECT_S)
        except FedMeshError:  # it was there a moment ago: discovery tries again, at its pace
            self.discovery.counts["unconnected"] += 1

    def _noticed(self, peer: PeerId, there: bool) -> None:
        if there:
            self.lists.connected(peer)
            self.members.met(peer)
            self.offering.connected(peer)
            self.runs.connected(peer)
        else:
            self.lists.disconnected(peer)
            self.offering.disconnected(peer)
            self.runs.disconnected(peer)
        self.discovery.wake()

    def _changed(self, name: PeerId, member: Member | None) -> None:
        if member is None:
            self.discovery.forget(name)
        elif member.addresses:
            self.discovery.told(name, member.addresses)
        self.transport.doubt(name, gone=member is not None and member.state in _DOUBTED)
        self.discovery.wake()
        self.runs.alive_changed()

    def _lists_changed(self, shunned: set[PeerId]) -> None:
        if self.bridge is not None:
            self.bridge.lists_changed()
        self.members.roster_changed()
        for name in shunned:
            self.discovery.forget(name)
            self.lists.disconnected(name)
            self.offering.disconnected(name)
            self.runs.disconnected(name)
        self.runs.roster_changed()
        for peer in self.transport.links:  # who is new on the roster was not heard before
            self.members.met(peer)

    def _say(self) -> None:
        try:
            addresses = self._own()
        except ConfigError as error:  # the system does not tell its interfaces
            self._events(Notice(str(error)))
            return
        self.members.say(addresses, self.offering.model)

    async def _upkeep(self) -> None:
        """Interfaces come and go."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._say()

    def _over(self, task: "asyncio.Task[Any]") -> None:
        """A part that ends by itself ends the node."""
        if task.cancelled() or self._ended.done():
            return
        error = task.exception()
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
