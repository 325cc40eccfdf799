"""Frames: whole, in order, bounded before they are read; what breaks is a peer's error."""

import asyncio

import pytest

from fedmesh.errors import DecodeError, PeerError
from fedmesh.transport.framing import read_frame, told, write_frame


def reading(*parts, end=True):
    """A stream on which these bytes arrived."""
    reader = asyncio.StreamReader()
    for part in parts:
        reader.feed_data(part)
    if end:
        reader.feed_eof()
    return reader


def test_what_is_written_is_read():
    async def run():
        received = asyncio.Queue()

        async def accept(reader, writer):
            received.put_nowait([await read_frame(reader, max_bytes=1 << 20) for _ in range(3)])
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        for data in (b"", b"one", bytes(1 << 20)):
            await write_frame(writer, data)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return await received.get()

    assert asyncio.run(run()) == [b"", b"one", bytes(1 << 20)]


def test_a_frame_over_the_limit_is_refused_unread():
    async def run():
        reader = reading(b"\x00\x00\x00\x05", b"12345")
        with pytest.raises(DecodeError, match="5 bytes is announced, the limit is 4"):
            await read_frame(reader, max_bytes=4)
        return await reader.read()

    assert asyncio.run(run()) == b"12345"


@pytest.mark.parametrize("parts", [[], [b"\x00\x00"], [b"\x00\x00\x00\x05", b"1234"]])
def test_an_end_in_the_middle(parts):
    async def run():
        with pytest.raises(PeerError, match="ended"):
            await read_frame(reading(*parts), max_bytes=100)

    asyncio.run(run())


def test_a_broken_connection():
    async def run():
        reader = asyncio.StreamReader()
        reader.set_exception(ConnectionResetError())
        with pytest.raises(PeerError, match="ConnectionResetError"):
            await read_frame(reader, max_bytes=100)

    asyncio.run(run())


def test_what_an_error_says():
    assert told(OSError(2, "No such file")) == "No such file"
    assert told(OSError("odd")) == "odd"
    assert told(ConnectionResetError()) == "ConnectionResetError"
