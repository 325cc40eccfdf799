"""A TCP proxy on loopback that can be cut, slowed and made to lie: a bad network between real processes."""

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on between clients and a port, until it is told otherwise.

    Attributes:
        port: where it listens, once it is entered.
        chunk_delay_s: slows it. corrupt: a bit of the next bytes towards the port is flipped.
        closed: refuses new connections. carried: bytes. cuts: how often it was cut.
        cut_after: cuts itself when that many bytes were carried.
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

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        """Ends all connections."""
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
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
        except OSError:
            return
        finally:
            writer.transport.abort()
