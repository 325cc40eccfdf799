"""TLS streams over real sockets: all that is written comes, in order, and who writes faster than it is read waits."""

import asyncio
import os
import socket
import ssl
import time

import pytest
from meshes import Mesh

from fedmesh.transport.peer_tls import TlsStream, secured
from fedmesh.transport.tls import accepting, dialling

PATIENCE_S = 20


class User:
    def __init__(self):
        self.stream: TlsStream | None = None
        self.got = bytearray()
        self.asked, self.room = 0, None
        self.paused, self.pauses = False, 0
        self.lost = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()

    def connection_made(self, transport):
        self.stream = transport

    def get_buffer(self):
        """Every other time somewhere that is shorter than a record."""
        self.asked += 1
        self.room = memoryview(bytearray(5_000)) if self.asked % 2 else None
        return self.room

    def buffer_updated(self, size):
        self.data_received(self.room[:size])

    def data_received(self, data):
        self.got += data
        self.changed.set()

    def pause_writing(self):
        self.paused, self.pauses = True, self.pauses + 1

    def resume_writing(self):
        self.paused = False
        self.changed.set()

    def connection_lost(self, error):
        self.lost.set_result(error)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    mesh = Mesh(tmp_path_factory.mktemp("tls"), begun=time.time() - 3_600)
    members = [mesh.enrol(name) for name in ("anna", "bert")]
    tls, root = members[0].tls_path, members[0].root_path
    return dialling(members[1].tls_path, root), accepting(tls, root, required=True, times=False)


def sockets():
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    for each in (one, other):
        each.setblocking(False)
    return one, other


async def pair(contexts):
    one, other = sockets()
    near, far = User(), User()
    await asyncio.gather(
        secured(lambda: near, one, contexts[0], server=False, handshake_s=PATIENCE_S),
        secured(lambda: far, other, contexts[1], server=True, handshake_s=PATIENCE_S),
    )
    return near, far


def play(test):
    async def main():
        async with asyncio.timeout(2 * PATIENCE_S):
            await test()

    asyncio.run(main())


@pytest.mark.parametrize("sizes", [[1, 0, 70_000, 3], [300_000] * 9, [65_536], [65_537, 16_384, 16_385]])
def test_all_that_is_written_comes_in_order(contexts, sizes):
    async def test():
        near, far = await pair(contexts)
        parts = [os.urandom(size) for size in sizes]
        near.stream.writelines(parts)
        far.stream.write(b"hello")
        await far.until(lambda: len(far.got) == sum(sizes))
        await near.until(lambda: near.got == b"hello")
        assert far.got == b"".join(parts)
        await near.until(lambda: not near.paused)
        assert near.stream.get_write_buffer_size() < 1 << 17
        near.stream.abort()
        await asyncio.wait_for(asyncio.gather(near.lost, far.lost), PATIENCE_S)

    play(test)


def test_who_writes_faster_than_it_is_read_waits_and_goes_on(contexts):
    """Each time: a connection whose user is not told that there is room is one that stands still for ever."""

    async def test():
        near, far = await pair(contexts)
        sent = 0
        for size in (5_000_000, 100_000, 40_000, 5_000_000, 66_000):
            far.stream.pause_reading()
            while not near.paused:
                near.stream.write(bytes(size))
                sent += size
            assert near.stream.get_write_buffer_size() > 0
            far.stream._transport.resume_reading()
            await near.until(lambda: not near.paused)
            await far.until(lambda sent=sent: len(far.got) == sent)
        assert near.pauses == 5
        near.stream.abort()
        await asyncio.wait_for(far.lost, PATIENCE_S)

    play(test)


class Wire(asyncio.Transport):
    """What asyncio gives a protocol, with a system behind it that takes as much as a test says."""

    HIGH = LOW = 0  # pauses while anything waits
    family = socket.AF_INET

    def __init__(self, protocol):
        super().__init__()
        self.protocol, self.kept, self.stuck = protocol, bytearray(), False
        self.other = None

    def set_write_buffer_limits(self, high=None, low=None):
        assert (high, low) == (self.HIGH, None)

    def get_extra_info(self, name, default=None):
        return self if name == "socket" else default

    def setsockopt(self, *_):
        pass

    def get_write_buffer_size(self):
        return len(self.kept)

    def write(self, data):
        self.kept += data
        if len(self.kept) > self.HIGH and not self.stuck:
            self.stuck = True
            self.protocol.pause_writing()

    def take(self, size):
        """The system takes so much, and carries it to the other end."""
        data, self.kept = self.kept[:size], self.kept[size:]
        while data:
            buffer = self.other.protocol.get_buffer(-1)
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
            self.other.protocol.buffer_updated(len(part))
        if self.stuck and len(self.kept) <= self.LOW:
            self.stuck = False
            self.protocol.resume_writing()


@pytest.mark.parametrize("size", [70_000, 100_000, 131_000, 400_000])
@pytest.mark.parametrize("step", [1_000, 50_000, 100_000])
def test_a_user_that_paused_is_told_that_there_is_room_however_the_system_takes_it(contexts, size, step):
    """A user who is not told stands still for ever, where what waits is less than asyncio calls full."""

    async def test():
        near, far = User(), User()
        wires = [
            Wire(TlsStream(user, context, server=server))
            for user, context, server in ((near, contexts[0], False), (far, contexts[1], True))
        ]
        wires[0].other, wires[1].other = wires[1], wires[0]
        for wire in wires:
            wire.protocol.connection_made(wire)
        for _ in range(4):
            for wire in wires:
                wire.take(1 << 17)
        near.stream.write(bytes(size))
        assert near.paused
        for _ in range(2 * size // step + 10):
            wires[0].take(step)
        assert not near.paused
        assert len(far.got) == size
        assert near.stream.get_write_buffer_size() == 0

    play(test)


def test_two_connections_share_a_buffer_and_not_what_is_in_it(contexts):
    async def test():
        pairs = [await pair(contexts) for _ in range(4)]
        data = [os.urandom(900_001) for _ in pairs]
        for (near, far), each in zip(pairs, data, strict=True):
            near.stream.write(each)
            far.stream.write(each[::-1])
        for (near, far), each in zip(pairs, data, strict=True):
            await far.until(lambda far=far: len(far.got) == 900_001)
            await near.until(lambda near=near: len(near.got) == 900_001)
            assert far.got == each
            assert near.got == each[::-1]
        for near, far in pairs:
            near.stream.abort()
            await asyncio.wait_for(far.lost, PATIENCE_S)

    play(test)


def test_a_goodbye_comes_behind_what_waits(contexts):
    async def test():
        near, far = await pair(contexts)
        near.stream.write(bytes(3_000_000))
        near.stream.close()
        near.stream.write(b"too late")
        await asyncio.wait_for(asyncio.gather(near.lost, far.lost), PATIENCE_S)
        assert len(far.got) == 3_000_000
        assert far.lost.result() is None

    play(test)


def test_what_was_altered_under_way_ends_it(contexts):
    async def test():
        near, far = await pair(contexts)
        far.stream.get_buffer(-1)[:64] = bytes(64)
        far.stream.buffer_updated(64)
        await asyncio.wait_for(asyncio.gather(near.lost, far.lost), PATIENCE_S)
        assert far.got == b""

    play(test)


def test_a_handshake_that_fails_says_why_and_leaves_nothing_open(contexts):
    async def test():
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # believes nobody, shows nothing
        one, other = sockets()
        ends = await asyncio.gather(
            secured(User, one, stranger, server=False, handshake_s=PATIENCE_S),
            secured(User, other, contexts[1], server=True, handshake_s=PATIENCE_S),
            return_exceptions=True,
        )
        assert isinstance(ends[0], ssl.SSLError)
        assert isinstance(ends[1], OSError)
        await asyncio.sleep(0)
        assert one.fileno() == other.fileno() == -1

    play(test)


def test_a_handshake_does_not_take_for_ever(contexts):
    async def test():
        one, other = sockets()
        with pytest.raises(TimeoutError):
            await secured(User, one, contexts[1], server=True, handshake_s=0.05)
        other.close()

    play(test)
