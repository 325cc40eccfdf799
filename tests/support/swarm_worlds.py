"""Devices that fetch from each other in memory, with a clock of its own and a network as bad as a test asks for."""

import hashlib
import heapq
import random

from fedmesh.errors import FedMeshError, RegistryError
from fedmesh.mesh.swarm import Delivery, Held, Published, Settings, Swarm, SwarmSource
from fedmesh.mesh.swarm.holdings import CHUNKS, chunk_digest
from fedmesh.registry import Slots
from fedmesh.registry.chunks import split
from fedmesh.registry.limits import CHUNK_BYTES
from fedmesh.registry.manifest import Blob

CHUNK = CHUNK_BYTES


def blob_of(data):
    return Blob(hashlib.sha256(data).digest(), len(data), tuple(digest for digest, _ in split(data)))


def model(seed, size):
    return random.Random(seed).randbytes(size)


class Memory:
    """Holdings in a dictionary, which a crash leaves."""

    def __init__(self, *files):
        self.pointer = b""
        self.files, self.chunks, self.blobs = {}, {}, {}
        for data in files:
            self.add(data)

    def add(self, data):
        blob = blob_of(data)
        self.blobs[blob.sha256] = blob
        self.chunks.update(split(data))
        return blob

    def read(self, name):
        return self.chunks.get(chunk_digest(name)) if name.startswith(CHUNKS) else self.files.get(name)

    def blob(self, sha256):
        return self.blobs.get(sha256)

    def mask(self, blob):
        return sum(1 << index for index, digest in enumerate(blob.chunks) if digest in self.chunks)

    def put(self, digest, data):
        if hashlib.sha256(data).digest() != digest:
            raise RegistryError("another one", code="hash")
        self.chunks[digest] = data

    def joined(self, blob):
        return b"".join(self.chunks[digest] for digest in blob.chunks)


class Net:
    """Nodes (Swarm or a liar with the same methods) by name, links between them, and what is under way.

    Args:
        rates: name -> bits a second, up and down; a node that is not in it has no limit.
        latency: seconds, least and most.
        loss, duplicate: probabilities of one message.
    """

    def __init__(self, seed, *, rates=None, latency=(0.005, 0.02), loss=0.0, duplicate=0.0):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.nodes, self.rates, self.latency, self.loss, self.duplicate = {}, rates or {}, latency, loss, duplicate
        self.links = {}
        self.sent_bytes, self.pieces = {}, {}
        self._up, self._down, self._order = {}, {}, {}
        self._heap, self._count, self._ticks, self._spins = [], 0, {}, 0

    def at(self, when, step):
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, step))

    def link(self, one, other):
        if frozenset((one, other)) not in self.links and one in self.nodes and other in self.nodes:
            self._count += 1
            self.links[frozenset((one, other))] = self._count
            self.carry(one, self.nodes[one].connected(other, self.now))
            self.carry(other, self.nodes[other].connected(one, self.now))

    def unlink(self, one, other):
        if self.links.pop(frozenset((one, other)), None) is not None:
            for name, peer in ((one, other), (other, one)):
                if name in self.nodes:
                    self.carry(name, self.nodes[name].disconnected(peer, self.now))

    def crash(self, name):
        node = self.nodes.pop(name)
        for pair in [pair for pair in self.links if name in pair]:
            self.unlink(*pair)
        return node

    def carry(self, name, messages):
        for message in messages:
            self._send(name, message)
        self._schedule(name)

    def run(self, until):
        while self._heap and self._heap[0][0] <= until:
            self.now, _, step = heapq.heappop(self._heap)
            step()
        self.now = until

    def until(self, done, within):
        end = self.now + within
        while not done() and self._heap and self._heap[0][0] <= end:
            self.now, _, step = heapq.heappop(self._heap)
            step()
        return done()

    def _schedule(self, name):
        node = self.nodes.get(name)
        if node is None or node.due == self._ticks.get(name):
            return
        due = self._ticks[name] = node.due
        if due < float("inf"):
            self.at(max(due, self.now + 0.001), lambda: self._tick(name, node, due))

    def _tick(self, name, node, due):
        if self.nodes.get(name) is node and self._ticks.get(name) == due:
            self._ticks[name] = None
            self.carry(name, node.tick(self.now))
            self._spins = self._spins + 1 if node.due <= self.now else 0
            assert self._spins < 20, f"{name} wants to be called again and again without time passing"

    def _send(self, name, message):
        size, link = len(message.data) + 60, self.links.get(frozenset((name, message.to)))
        if link is None:
            return
        self.sent_bytes[name] = self.sent_bytes.get(name, 0) + size
        if message.is_piece:
            self.pieces[name] = self.pieces.get(name, 0) + len(message.data)
        left = self._through(self._up, name, self.now, size)
        if message.is_piece:
            self.at(left, lambda: self._left(name, message.to, link))
        for _ in range(2 if self.rng.random() < self.duplicate else 1):
            if self.rng.random() >= self.loss:
                took = size * 8 / self.rates[name] if name in self.rates else 0.0
                latency = self.rng.uniform(*self.latency)
                if message.to in self.rates:  # the receiver takes in while the sender gives out
                    self.at(left - took + latency, lambda here=left + latency: self._comes(name, message, link, here))
                else:
                    self._comes(name, message, link, left + latency)

    def _comes(self, name, message, link, here):
        """Its first byte is at the receiver's link, its last one is out of the sender's at `here`."""
        if message.to in self.rates:
            here = max(here, self._through(self._down, message.to, self.now, len(message.data) + 60))
        if not self.loss:  # a TCP connection: what was sent first is there first
            here = self._order[name, message.to] = max(here, self._order.get((name, message.to), 0.0))
        self.at(here, lambda: self._arrive(name, message, link))

    def _through(self, busy, name, now, size):
        if name not in self.rates:
            return now
        busy[name] = max(now, busy.get(name, 0.0)) + size * 8 / self.rates[name]
        return busy[name]

    def _left(self, name, to, link):
        if self.links.get(frozenset((name, to))) == link:
            self.carry(name, self.nodes[name].sent(to, self.now))

    def _arrive(self, name, message, link):
        if self.links.get(frozenset((name, message.to))) == link:
            self.carry(message.to, self.nodes[message.to].received(name, message.data, self.now))


def swarm_of(net, data, *, peers, publisher_rate, rate, settings=None, size=None):
    """A publisher and peers that all see each other; returns when each was done, after `run`."""
    blob = blob_of(data)
    net.rates = {f"p{number}": rate for number in range(peers)}
    if publisher_rate:
        net.rates["origin"] = publisher_rate
    net.nodes["origin"] = Swarm(Memory(data), rng=random.Random(net.rng.random()), settings=settings, origin=True)
    for number in range(peers):
        holdings = Memory()
        holdings.blobs[blob.sha256] = blob
        net.nodes[f"p{number}"] = Swarm(holdings, rng=random.Random(net.rng.random()), settings=settings)
    names = list(net.nodes)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            net.link(one, other)
    for name in names[1:]:
        net.carry(name, net.nodes[name].want_blob(blob, net.now))
    return blob


class Origin:
    """A publisher: its repository in the swarm."""

    def __init__(self, repository, seed, settings=None):
        self.repository = repository
        self.published = Published(repository.read, repository.pointer, lambda: manifests(repository))
        self.swarm = Swarm(self.published, rng=random.Random(seed), settings=settings, origin=True)

    def __getattr__(self, name):
        return getattr(self.swarm, name)

    def news(self, now):
        self.published.refresh()
        return self.swarm.changed(now)


def manifests(repository):
    return [version.manifest for version in repository.versions() if not version.missing]


class Device:
    """A device with an installer of its own in a folder, which outlives it."""

    def __init__(self, world, name, seed, now, settings=None, **options):
        chance = random.Random(seed)
        folder = world.folder / f"{name}-swarm"
        self.held = Held(folder, slots=Slots(world.folder / name / "slots").files)
        self.source = SwarmSource(self.held)
        self.installer = world.device(name, source=self.source, keeps_chunks=False, **options)
        self.swarm = Swarm(self.held, rng=chance, settings=settings)
        self.delivery = Delivery(
            self.swarm, self.held, self.source, installer=self.installer, rng=chance, settings=settings
        )
        self.errors = []
        self.work(now)

    @property
    def due(self):
        return min(self.swarm.due, self.delivery.due)

    @property
    def version(self):
        return self.installer.slots.state.running.version

    def work(self, now):
        out = self.delivery.advance(now)
        while self.delivery.is_due:
            error = None
            self.source.begin()
            try:
                self.installer.update()
            except FedMeshError as caught:
                error = caught
                if self.source.wanted is None:
                    self.errors.append(getattr(caught, "code", type(caught).__name__))
            out += self.delivery.updated(error, now) + self.delivery.advance(now)
        return out

    def connected(self, peer, now):
        return self.swarm.connected(peer, now) + self.work(now)

    def disconnected(self, peer, now):
        return self.swarm.disconnected(peer, now) + self.work(now)

    def received(self, peer, data, now):
        return self.swarm.received(peer, data, now) + self.work(now)

    def sent(self, peer, now):
        return self.swarm.sent(peer, now) + self.work(now)

    def tick(self, now):
        return self.swarm.tick(now) + self.work(now)


__all__ = ["CHUNK", "Device", "Memory", "Net", "Origin", "Settings", "blob_of", "model", "swarm_of"]
