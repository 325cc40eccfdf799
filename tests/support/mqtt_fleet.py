"""What tests over a real broker share: whether there is one, and a proxy that can be cut, slowed and made to lie."""

import asyncio
import os

import pytest

from fedmesh.testing.loopback_broker import LoopbackBroker, SmallCa, find_mosquitto

__all__ = ["LoopbackBroker", "Proxy", "SmallCa", "require_mosquitto"]


def require_mosquitto() -> None:
    """Without one the tests of a module are skipped, with one loud line, or fail where CI runs."""
    if find_mosquitto() is None:
        text = "NO MOSQUITTO: nothing over a real broker is tested (apt-get install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text, allow_module_level=True)


class Proxy:
    """Passes bytes on between clients and a port, until it is told otherwise.

    `chunk_delay_s` slows it, `corrupt` flips a bit in the next bytes towards the broker, `cut` ends all connections,
    `cut_after` does so when that many bytes were carried, and `closed` refuses new ones.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.chunk_delay_s = 0.0
        self.corrupt = False
        self.closed = False
        self.carried = 0
        self.cut_after: int | None = None
        self.cuts = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        if self.closed:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pass(reader, there_writer, up=True), self._pass(there_reader, writer, up=False))
        self._writers -= {writer, there_writer}

    async def _pass(self, reader, writer, *, up):
        try:
            while data := await reader.read(1 << 16):
                if self.chunk_delay_s:
                    await asyncio.sleep(self.chunk_delay_s)
                if up and self.corrupt and len(data) > 1000:
                    self.corrupt = False
                    data = bytes([*data[:500], data[500] ^ 1, *data[501:]])
                self.carried += len(data)
                if self.cut_after is not None and self.carried >= self.cut_after:
                    self.cut_after = None
                    self.cut()
                writer.write(data)
                await writer.drain()
        except (OSError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
