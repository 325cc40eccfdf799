"""One end of one contender: ``python -m benchmarks.mesh.contenders KIND ROLE JSON``, told what to do on stdin.

Short messages come back as they are, of long ones a byte when they are whole. An end that is not asked does nothing, so
that the ends of several contenders run side by side and take turns.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from fedmesh.errors import FedMeshError

SMALL_BYTES = 1024
GRPC_CHUNK = 256 * 1024
"""Of gRPC's streams. 64 KB and 1 MB, and one whole message, were slower."""
_SERVICE = "benchmark.Echo"
_CONNECT_S = 30.0


class Asking(Protocol):
    """The end that measures."""

    async def ask(self, data: bytes) -> None:
        """Sends a short message; returns with the answer."""
        ...

    async def give(self, data: bytes) -> None:
        """Sends a long one; returns when it is there whole."""
        ...


# fedmesh


async def fedmesh_answering(told: dict[str, Any], tell: Callable[[int], None]) -> None:
    """Echoes for ever."""
    transport = await _peer(told)
    tell(transport.listening[0][1])
    async for peer, data in transport.receive():
        if len(data) == SMALL_BYTES:
            await transport.post(peer, data)


class Fedmesh:
    """A `PeerTransport` with its defaults."""

    def __init__(self, transport: Any, other: str) -> None:
        self._transport, self._other = transport, other
        self._replies = transport.receive()

    @classmethod
    async def open(cls, told: dict[str, Any]) -> "Fedmesh":
        """With a connection."""
        transport = await _peer(told)
        await transport.connect(told["other"], wait_s=_CONNECT_S)
        return cls(transport, told["other"])

    async def ask(self, data: bytes) -> None:
        """As `Asking`."""
        await self._transport.post(self._other, data)
        await anext(self._replies)

    async def give(self, data: bytes) -> None:
        """As `Asking`: until it is acknowledged by its hash."""
        await self._transport.send(self._other, data)


async def _peer(told: dict[str, Any]) -> Any:
    from fedmesh.identity import Membership
    from fedmesh.transport.peers import PeerOptions, PeerTransport

    where = [("127.0.0.1", told["port"])] if "port" in told else []
    options = PeerOptions(listen=() if where else (("127.0.0.1", 0),))
    return await PeerTransport.open(Membership(Path(told["folder"])), lambda _peer: where, options)


# gRPC


async def grpc_answering(told: dict[str, Any], tell: Callable[[int], None]) -> None:
    """Echoes for ever."""
    import grpc  # type: ignore[import-untyped]

    async def whole(request: bytes, _context: Any) -> bytes:
        return request

    async def stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def long(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        parts = [part async for part in requests]
        return b"".join(parts)[:1]  # the application is to have it in one piece, as with the others

    methods = {
        "Whole": grpc.unary_unary_rpc_method_handler(whole),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Long": grpc.stream_unary_rpc_method_handler(long),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    key, root = _pem(told)
    secure = grpc.ssl_server_credentials([(key, key)], root_certificates=root, require_client_auth=True)
    port = server.add_secure_port("localhost:0", secure)
    await server.start()
    tell(port)
    await server.wait_for_termination()


def _pem(told: dict[str, Any]) -> list[bytes]:
    """Our key and certificate, which are in one file, and the root."""
    return [Path(told[name]).read_bytes() for name in ("tls", "root")]


class Grpc:
    """grpc.aio as its documentation shows it, with bytes for messages: a call for each request."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._whole = channel.unary_unary(f"/{_SERVICE}/Whole")
        self._long = channel.stream_unary(f"/{_SERVICE}/Long")

    @classmethod
    async def open(cls, told: dict[str, Any]) -> "Grpc":
        """With a connection."""
        import grpc

        key, root = _pem(told)
        channel = grpc.aio.secure_channel(f"localhost:{told['port']}", grpc.ssl_channel_credentials(root, key, key))
        async with asyncio.timeout(_CONNECT_S):
            await channel.channel_ready()
        return cls(channel)

    async def ask(self, data: bytes) -> None:
        """As `Asking`."""
        await self._whole(data)

    async def give(self, data: bytes) -> None:
        """As `Asking`."""

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, len(data), GRPC_CHUNK):
                yield data[start : start + GRPC_CHUNK]

        await self._long(parts())


class GrpcStream(Grpc):
    """One call that stays open: the least that gRPC can do for a request."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self._stream = channel.stream_stream(f"/{_SERVICE}/Stream")()

    async def ask(self, data: bytes) -> None:
        """As `Asking`."""
        await self._stream.write(data)
        await self._stream.read()


Answering = Callable[[dict[str, Any], Callable[[int], None]], Awaitable[None]]
ANSWERING: dict[str, Answering] = {
    "fedmesh": fedmesh_answering,
    "grpc": grpc_answering,
    "grpc stream": grpc_answering,
}
ASKING: dict[str, Callable[[dict[str, Any]], Awaitable[Asking]]] = {
    "fedmesh": Fedmesh.open,
    "grpc": Grpc.open,
    "grpc stream": GrpcStream.open,
}


async def measuring(asking: Asking) -> None:
    """Does what stands on stdin, a line each, and prints the seconds that each message took."""
    made: dict[int, bytes] = {}  # once: it would take as much of the processor's time as sending does
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        took = []
        data = made.get(order["bytes"]) or os.urandom(order["bytes"])
        made[order["bytes"]] = data
        send = asking.ask if order["bytes"] == SMALL_BYTES else asking.give
        for _ in range(order["times"]):
            began = time.perf_counter()
            await send(data)
            took.append(time.perf_counter() - began)
        print(json.dumps(took), flush=True)


async def main(kind: str, role: str, told: dict[str, Any]) -> None:
    """Runs until stdin ends."""

    def tell(port: int) -> None:
        print(port, flush=True)

    if role == "answering":
        await ANSWERING[kind](told, tell)
        return
    asking = await ASKING[kind](told)
    tell(0)
    await measuring(asking)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
    except FedMeshError as error:
        raise SystemExit(str(error)) from error
