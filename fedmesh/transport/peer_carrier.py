"""The link between a `Courier` and the connections of a party: which frame goes to whom, and who is called for it.

A peer that has no connection, or whose connection is full, is held (`Endpoint.hold`): nothing is taken out for it until
there is room again, so nothing piles up and nobody else waits for it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fedmesh.errors import FedMeshError, PeerError
from fedmesh.identity import Membership
from fedmesh.transport.bucket import Bucket
from fedmesh.transport.endpoint import Carried, Endpoint
from fedmesh.transport.frames import Data
from fedmesh.transport.peer_attempts import Attempts
from fedmesh.transport.peer_circuits import Circuit, Circuits
from fedmesh.transport.peer_contexts import Contexts
from fedmesh.transport.peer_dialler import Dialler
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_listener import Listener
from fedmesh.transport.peer_options import Address, PeerOptions
from fedmesh.transport.peer_pipe import Pipe
from fedmesh.transport.peer_pool import RESTING, Pool
from fedmesh.transport.peer_relay import Relay
from fedmesh.transport.peer_wire import CIRCUIT_KINDS, Kind, announcement_in, announcement_of
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.transport.courier import Courier

__all__ = ["PeerCarrier"]

_log = logging.getLogger(__name__)
_TICK_S = 1.0
_FAREWELL_S = 1.5


class PeerCarrier:
    """As `fedmesh.transport.courier.Link`, to many peers.

    Attributes:
        announces: whether we may announce something.
        pool, dialler, listener: the connections, and who makes them.
        circuits, relay: streams inside connections, and what is carried between two others on them.
    """

    def __init__(
        self,
        membership: Membership,
        options: PeerOptions,
        *,
        courier: "Courier",
        endpoint: Endpoint,
        addresses: Callable[[PeerId], Sequence[Address]],
        clock: Callable[[], float] = time.time,
        chance: random.Random,
    ) -> None:
        contexts = Contexts(membership)
        self.announces = options.announces
        self.pool = Pool(membership, options, self, clock=clock)
        self.circuits = Circuits(asked=self._asked, called=self._called)
        self.attempts = Attempts(
            self.pool,
            options,
            self.circuits,
            addresses=addresses,
            context=contexts.dialling,
            piped=self._piped,
            chance=chance,
        )
        self.dialler = Dialler(
            self.pool,
            options,
            attempts=self.attempts,
            failed=self._failed,
            again=self._again,
            chance=chance,
        )
        self.listener = Listener(options, context=contexts.accepting, made=self._link, count=self.count)
        self._contexts, self._options, self._courier, self._endpoint = contexts, options, courier, endpoint
        self._loop = asyncio.get_running_loop()
        self._bucket = Bucket(options.bytes_per_s, self._loop.time())
        self.relay = Relay(
            membership,
            options,
            self.circuits,
            self.pool.links,
            own_wait_s=self._own_wait_s,
            took=self._bucket.take,
            count=self.count,
        )
        self._refill: asyncio.TimerHandle | None = None
        self._said: dict[str, bytes] = {}
        self._behind: set[PeerId] = set()
        self._leaving: dict[PeerId, list[int]] = {}
        self._waiting: dict[PeerId, list[asyncio.Future[None]]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self._pipes: set[Pipe] = set()
        self._closed = False

    async def start(self) -> None:
        """Listens and calls. Raises: ConfigError: we cannot listen there, or a file cannot be used."""
        self._contexts.load()
        await self.listener.start()
        self._ticking = self._loop.create_task(self._tick())
        for peer in self._options.keep:
            self.dialler.call(peer)

    def has_room(self) -> bool:
        """Whether the limit of bytes a second lets a frame through now."""
        if self._closed or not self._bucket.is_limited:
            return not self._closed
        wait_s = self._bucket.wait_s(self._loop.time())
        if wait_s and self._refill is None:
            self._refill = self._loop.call_later(wait_s, self._refilled)
        return not wait_s

    def carry(self, frame: Carried) -> None:
        """Sends a frame; without a connection it is lost, and asked for again as soon as there is one."""
        link = self.pool.links.get(frame.peer)
        if link is None:
            self._endpoint.hold(frame.peer)
            self.dialler.call(frame.peer)
        else:
            self._bucket.take(sum(map(len, frame.parts)))
            link.send(Kind.PARCEL, *frame.parts)
            if link.is_full:
                self._leaving.setdefault(frame.peer, []).append(frame.whole)
            else:
                self._courier.left(frame.whole)

    def announce(self, what: str, data: bytes) -> None:
        """Tells everybody with whom there is a connection; the others when they are met."""
        self._said[what] = data
        for link in list(self.pool.links.values()):
            self._say(link, [what])
        self._courier.announcement_settled(what, data)

    async def connected(self, peer: PeerId) -> None:
        """Returns when there is a connection with `peer`; as long as somebody waits here, it is called.

        Raises:
            PeerError: the transport was closed.
        """
        while peer not in self.pool.links:
            if self._closed:
                raise PeerError(f"no connection with {peer}: the transport was closed")
            arrived = self._loop.create_future()
            self._waiting.setdefault(peer, []).append(arrived)
            self.dialler.call_now(peer)
            try:
                await arrived
            finally:
                self._waiting[peer].remove(arrived)
                if not self._waiting[peer]:
                    del self._waiting[peer]

    async def aclose(self) -> None:
        """Says goodbye, and ends everything."""
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        self.relay.close()
        await self._parted(self.pool.close(relayed=True))
        self.pool.close()
        for arrived in [one for waiting in self._waiting.values() for one in waiting if not one.done()]:
            arrived.set_result(None)  # who waits finds that it is closed
        await self.dialler.aclose()
        await self.listener.aclose()
        await self._parted(link for link in self.pool.made if link.is_open)
        for pipe in list(self._pipes):
            pipe.close()
        if lost := [pipe.lost for pipe in self._pipes]:
            await asyncio.wait(lost, timeout=_FAREWELL_S)

    # What the pool calls.

    def came(self, link: PeerLink) -> None:
        """As `Watcher`."""
        peer = link.name
        self.dialler.reached(peer, by_us=link.dialled is not None)
        self._endpoint.release(peer)
        self._say(link, list(self._said))
        self._courier.noticed(peer, there=True)
        for waiting in self._waiting.get(peer, []):
            if not waiting.done():
                waiting.set_result(None)

    def went(self, link: PeerLink) -> None:
        """As `Watcher`."""
        if self._closed:
            return
        peer = link.name
        self._behind.discard(peer)
        self._left(peer)
        if self._loop.time() - link.since >= self._options.steady_s:
            self.dialler.steady(peer)
        if link.why not in RESTING:
            self.count("peer_left" if link.it_left else "connection_lost")
            self._courier.noticed(peer, there=False)
        if link.why == "idle":
            self._endpoint.release(peer)
            self._endpoint.reached(peer)  # what crossed the goodbye is asked for, and calls it
            if peer in self._options.keep:
                self.dialler.call(peer)
            self._loop.call_soon(self._courier.pump)
        else:
            self._endpoint.hold(peer)
            self.dialler.put_off(peer)

    def received(self, link: PeerLink, kind: Kind, body: Data) -> None:
        """As `Watcher`. Raises: DecodeError: nothing that is announced, or no circuit."""
        if kind is Kind.PARCEL:
            if not self._closed:
                self._courier.arrived(link.name, body)
        elif kind in CIRCUIT_KINDS:
            self.circuits.received(link, kind, bytes(body))
        elif not self._closed:
            self._courier.heard(link.name, *announcement_in(bytes(body)))

    def over(self, link: PeerLink) -> None:
        """As `Watcher`."""
        self.circuits.over(link)

    def full(self, link: PeerLink, *, full: bool) -> None:
        """As `Watcher`."""
        peer = link.name
        if full:
            self._endpoint.hold(peer)
            return
        self._endpoint.release(peer)
        self._left(peer)
        if peer in self._behind:
            self._behind.discard(peer)
            self._say(link, list(self._said))
        self._loop.call_soon(self._courier.pump)  # asyncio is in the midst of writing

    def count(self, reason: str) -> None:
        """As `Watcher`."""
        self._courier.counts[reason] += 1

    # The rest.

    def _say(self, link: PeerLink, whats: list[str]) -> None:
        for what in whats:
            if link.is_full:  # it is told of all when it reads again
                self._behind.add(link.name)
                return
            link.send(Kind.ANNOUNCEMENT, announcement_of(what, self._said[what]))

    def _left(self, peer: PeerId) -> None:
        """Nothing for `peer` waits to be written any more."""
        for sequence in self._leaving.pop(peer, ()):
            self._courier.left(sequence)

    def _failed(self, peer: PeerId) -> None:
        """There is no way to `peer` for now."""
        self._endpoint.hold(peer)
        if peer in self._courier.present:
            self._courier.noticed(peer, there=False)

    def _again(self, peer: PeerId) -> None:
        """`peer` may be called once more: it is, if there is a reason to."""
        if self._closed or peer in self.pool.links:
            return
        self._endpoint.release(peer)
        self._endpoint.reached(peer)  # whatever is out for it is asked for, and that calls it
        if peer in self._options.keep or peer in self._waiting:
            self.dialler.call(peer)
        self._courier.pump()

    def _link(self, via: PeerId | None) -> PeerLink:
        return self.pool.link(via=via)

    def _piped(self) -> Pipe:
        pipe = Pipe()
        self._pipes.add(pipe)
        pipe.lost.add_done_callback(lambda _: self._pipes.discard(pipe))
        return pipe

    def _asked(self, circuit: Circuit, name: PeerId) -> None:
        self.relay.asked(circuit, name)

    def _called(self, circuit: Circuit) -> None:
        """Somebody calls us through a neighbour."""
        if self._closed:
            circuit.end("closed")
            return
        pipe = circuit.user = self._piped()
        pipe.join(circuit)
        if not self.listener.relayed(pipe, circuit.link.name):
            circuit.end("flood")
            pipe.close()

    def _own_wait_s(self) -> float:
        """As `Relay`: what we have to say ourselves goes first."""
        if self._options.bytes_per_s is None:
            return 0.0
        self._courier.pump()
        return self._bucket.wait_s(self._loop.time())

    async def _parted(self, links: Iterable[PeerLink]) -> None:
        if parting := [link.lost for link in links]:
            await asyncio.wait(parting, timeout=_FAREWELL_S)

    def _refilled(self) -> None:
        self._refill = None
        self._courier.pump()

    async def _tick(self) -> None:
        options = self._options
        every_s = min(_TICK_S, options.idle_s / 4, options.quiet_s / 4, options.frame_s / 4)
        while True:
            await asyncio.sleep(every_s)
            try:
                self.pool.tick()
                self.relay.tick()
            except FedMeshError as error:  # the disk is full, and the time floor cannot be kept
                self.count("tick_failed")
                _log.error("connections cannot be looked after: %s", error)
