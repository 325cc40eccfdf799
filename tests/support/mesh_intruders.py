"""Who attacks running nodes, over real sockets: an enrolled member that says anything, and strangers that say bytes."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import time

from meshes import Uri, leaf, rogue

from fedmesh.identity.certificates import new_key, pem
from fedmesh.identity.keyfiles import key_pem
from fedmesh.mesh.membership import Signer
from fedmesh.mesh.membership.messages import Gossip, encode
from fedmesh.observability.refusals import Refusals
from fedmesh.peer.exchange import Exchange
from fedmesh.peer.limits import MOST_MB, limits_for
from fedmesh.transport.peer_wire import Answer, Hello, Kind, head_of
from fedmesh.transport.peers import PeerOptions, PeerTransport
from fedmesh.transport.tls import dialling

CHANNELS = ("members", "lists", "swarm")
_hosts = itertools.count(66)


def refused(node, part, reason):
    """``fedmesh_refused_total{part, reason}``, as it is scraped."""
    refusals = Refusals()
    for name, counts in node.counts.items():
        refusals.watch(name, counts)
    samples = [sample for family in refusals.collect() for sample in family.samples if sample.name.endswith("_total")]
    return sum(each.value for each in samples if each.labels == {"part": part, "reason": reason})


class Insider:
    """Has a certificate of the mesh, and no node: `say` posts any bytes on any channel, `heard` is what came."""

    def __init__(self, nodes, name="mallory"):
        self.nodes, self.name, self.heard = nodes, name, []
        self.membership = nodes.members[name]
        self.signer = Signer(self.membership.name, self.membership.signing_key())
        self.exchange = None

    async def __aenter__(self):
        options = PeerOptions(listen=(("127.0.0.1", 0),), reconnect_s=0.05, reconnect_max_s=0.2)
        self.transport = await PeerTransport.open(self.membership, self._addresses, options, limits=limits_for(MOST_MB))
        self.port = self.transport.listening[0][1]
        self._tasks = [asyncio.create_task(self._read(channel)) for channel in CHANNELS]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.exchange is not None:
            await self.exchange.aclose()
        await self.transport.aclose()

    async def link(self, *names):
        for name in names:
            await self.transport.connect(name, wait_s=20)

    async def say(self, to, channel, data, *, waits=True):
        receipt = await self.transport.channel(channel).post(to, data)
        if waits:
            await receipt.delivered()

    async def gossip(self, to, *raws):
        await self.say(to, "members", encode(Gossip(raws)))

    def give(self, swarm):
        """From now on `swarm` answers who asks for models."""
        self.exchange = Exchange(swarm, self.transport.channel("swarm"))
        self.transport.on_presence = self._noticed
        for peer in self.transport.links:
            self.exchange.connected(peer)

    def _noticed(self, peer, there):
        (self.exchange.connected if there else self.exchange.disconnected)(peer)

    async def _read(self, channel):
        async for peer, data in self.transport.channel(channel).receive():
            self.heard.append((peer, channel, data))
            if channel == "swarm" and self.exchange is not None:
                self.exchange.carry(self.exchange.swarm.received(peer, data, self.exchange.now))

    def _addresses(self, name):
        return [("127.0.0.1", self.nodes.ports[name])] if name in self.nodes.ports else []


class Stranger:
    """Connections from a host of its own (127.0.0.N), with any certificate, saying any bytes."""

    def __init__(self, port):
        self.port, self.host = port, f"127.0.0.{next(_hosts)}"
        self.made = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for writer in self.made:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def dial(self, context=None):
        opened = socket.socket()
        opened.setblocking(False)
        opened.bind((self.host, 0))
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", self.port))
        tls = {} if context is None else {"ssl": context, "server_hostname": ""}
        reader, writer = await asyncio.open_connection(sock=opened, **tls)
        self.made.append(writer)
        return reader, writer

    async def greet(self, membership, to):
        """A connection as a member makes it. Returns what it is told: empty, it is let in."""
        reader, writer = await self.dial(dialling(membership.tls_path, membership.root_path))
        hello = Hello(to, b"attacker").to_bytes()
        writer.write(head_of(Kind.HELLO, len(hello)) + hello)
        head = await reader.readexactly(4)
        code = Answer.from_bytes(await reader.readexactly(int.from_bytes(head[1:], "big"))).code
        return code, reader, writer


def shown(nodes, name, issuer, issuer_key):
    """A TLS context with a certificate for `name` of whatever issuer; the other end is believed blindly."""
    key, began = new_key(), time.time() - 300
    names = (Uri(f"fedmesh://home/{name}"),)
    made = leaf(issuer, issuer_key, key=key, begin=began, names=names, common=name)
    path = nodes.folder / f"{made.serial_number:x}.pem"
    path.write_bytes(key_pem(key) + pem(made, issuer))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(path)
    return context


def strangers_issuer(nodes):
    """Issuer and key of somebody else's authority of the same name."""
    _, issuer, key = rogue(now=nodes.mesh.begun)
    return issuer, key


async def hung_up(reader):
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while await reader.read(1 << 16):
            pass
