"""The small parts of a run on a node: packets, who stands by, and what is asked over the socket."""

import asyncio
import json
import socket

import pytest
from mesh_nodes import in_loop, until
from round_worlds import charter

from fedmesh.errors import ConfigError, RoundError
from fedmesh.events import Notice
from fedmesh.mesh.rounds.messages import Readiness
from fedmesh.mesh.rounds.result import founding
from fedmesh.peer.blobs import BlobStore
from fedmesh.peer.packets import Packets
from fedmesh.peer.standing_by import StandingBy
from fedmesh.peer.status import SOCKET, StatusServer, ask


class SlowChannel:
    """Takes messages, and delivers them when `gate` is open."""

    def __init__(self):
        self.posted, self.gate = [], asyncio.Event()

    async def post(self, to, data, *, expires_in_s=None):
        self.posted.append((to, data))
        return self

    async def delivered(self):
        await self.gate.wait()


@in_loop
async def test_a_packet_that_waits_is_not_sent_again_and_one_that_arrived_is():
    channel = SlowChannel()
    packets = Packets(channel, max_bytes=100)
    for _ in range(5):
        packets.send("bert", b"asked")
    packets.send("cleo", b"asked")
    packets.send("bert", b"another")
    await until(lambda: len(channel.posted) == 3)
    channel.gate.set()
    await until(lambda: not packets._under_way)
    assert not packets._bytes
    packets.send("bert", b"asked")
    await until(lambda: len(channel.posted) == 4)
    await packets.aclose()


@in_loop
async def test_what_is_too_long_is_told_once_and_what_is_too_much_dropped():
    channel, told = SlowChannel(), []
    packets = Packets(channel, max_bytes=1 << 24, events=told.append)
    for _ in range(3):
        packets.send("bert", bytes((1 << 24) + 1))
    assert [type(event) for event in told] == [Notice]
    for number in range(8):
        packets.send("bert", bytes([number]) * (1 << 23))
    packets.send("bert", b"x" * (1 << 23))
    assert packets.counts == {"too-long": 3, "dropped": 1}
    await packets.aclose()


class Behind:
    def __getattr__(self, name):
        return lambda *_: name


def test_who_stands_by_votes_for_what_it_holds_and_gives_way(tmp_path):
    blobs = BlobStore(tmp_path)
    digest = blobs.put(b"model")
    one = StandingBy(blobs)
    assert one.readiness(1, 0) is Readiness.LATER
    assert one.holds(digest)
    assert not one.holds(bytes(32))
    assert (one.signed(1), one.resume(b"", {})) == (None, None)
    one.close(1)
    with pytest.raises(RoundError, match="does not train"):
        one.answer(1, 0, "anna", b"")
    assert one.open(1, 0, (), founding(charter(4))) is None  # not yet
    one.is_final = True
    with pytest.raises(RoundError):
        one.open(1, 0, (), founding(charter(4)))
    assert one.readiness(1, 0) is Readiness.OUT
    one.behind = Behind()
    assert [one.readiness(1, 0), one.holds(digest), one.signed(1), one.resume(b"", {}), one.answer(1, 0, "a", b"")] == [
        "readiness", "holds", "signed", "resume", "answer"
    ]  # fmt: skip
    assert one.open(1, 0, (), founding(charter(4))) == "open"


def said(folder, data):
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10)
        asking.connect(str(folder / SOCKET))
        asking.sendall(data)
        asking.shutdown(socket.SHUT_WR)
        parts = []
        while part := asking.recv(4096):
            parts.append(part)
        return b"".join(parts)


@in_loop
async def test_a_node_answers_one_line_and_refuses_what_it_does_not_do(tmp_path):
    def refuse(request):
        raise ConfigError(f"not {request['what']}")

    server = StatusServer(tmp_path, {"status": lambda _: {"self": "anna"}, "dance": refuse})
    await server.start()
    try:
        assert await asyncio.to_thread(ask, tmp_path) == {"self": "anna"}
        with pytest.raises(ConfigError, match="not today"):
            await asyncio.to_thread(ask, tmp_path, do="dance", what="today")
        for data, answer in (
            (b"no json\n", "a line of JSON"),
            (b"[]\n", "does none of that"),
            (b'{"do": 7}\n', "it takes dance, status"),
        ):
            assert answer in json.loads(await asyncio.to_thread(said, tmp_path, data))["error"]
        assert await asyncio.to_thread(said, tmp_path, b'{"do": "status"}') == b""  # no line: it has gone
        with pytest.raises(ConfigError, match="no node, or it is ending"):
            await asyncio.to_thread(ask, tmp_path, what="x" * (1 << 20))
    finally:
        await server.aclose()
