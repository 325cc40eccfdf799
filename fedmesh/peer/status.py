"""What a running node is asked by who may read its folder: over a socket there, one JSON object each way a connection.

``{"do": "status"}`` is answered with what it says of itself; what else it takes is for who makes the server. A refusal
is ``{"error": why}``.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmesh.errors import ConfigError, FedMeshError

__all__ = ["SOCKET", "StatusServer", "ask"]

SOCKET = "status.sock"
_MAX_BYTES = 4 << 20
_MAX_REQUEST = 64 << 10
_LONGEST_S = 5.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class StatusServer:
    """In `folder`, from `start` to `aclose`; only its owner can connect (0600, and the kernel says who it is).

    Args:
        handlers: what is asked for -> what answers, with plain data; it gets the request, and raises a FedMeshError to
            refuse it.
    """

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        self._folder, self._handlers = folder, handlers
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; what a process left there that was killed is replaced. Raises: ConfigError: it cannot."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            (self._folder / SOCKET).unlink(missing_ok=True)
            with _reachable(self._folder) as path:
                opened.bind(path)
            (self._folder / SOCKET).chmod(0o600)
            self._server = await asyncio.start_unix_server(self._serve, sock=opened, limit=_MAX_REQUEST)
        except OSError as error:
            opened.close()
            raise ConfigError(f"cannot listen at {self._folder / SOCKET}: {error.strerror or error}") from error

    async def aclose(self) -> None:
        """Nobody is answered any more."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                (self._folder / SOCKET).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LONGEST_S):
                request = await reader.readuntil(b"\n")
                writer.write(json.dumps(self._answer(request, writer)).encode())
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            writer.close()

    def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> dict[str, Any]:
        if not _is_owner(writer.get_extra_info("socket")):
            return {"error": "only who runs this node may ask it"}
        try:
            asked = json.loads(request)
        except ValueError:
            return {"error": "a request is a line of JSON"}
        handler = self._handlers.get(str(asked.get("do"))) if isinstance(asked, dict) else None
        if handler is None:
            return {"error": f"this node does none of that; it takes {', '.join(sorted(self._handlers))}"}
        try:
            return handler(asked)
        except FedMeshError as error:
            return {"error": str(error)}


def ask(folder: Path, **request: Any) -> dict[str, Any]:
    """What the node with this folder says; asked for its status, unless `request` says something else.

    Raises:
        ConfigError: none runs, it does not answer, or it refuses.
    """
    said = _asked(folder, json.dumps({"do": "status", **request}).encode() + b"\n")
    if not isinstance(said, dict):
        raise ConfigError(f"what answers at {folder / SOCKET} is no node")
    if isinstance(said.get("error"), str):
        raise ConfigError(said["error"])
    return said


def _asked(folder: Path, request: bytes) -> Any:
    advice = f"no node runs with the folder {folder}: start one with fedmesh peer run CONFIG"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(_LONGEST_S)
        try:
            with _reachable(folder) as path:
                asking.connect(path)
            asking.sendall(request)
            parts, size = [], 0
            while part := asking.recv(1 << 16):
                parts.append(part)
                size += len(part)
                if size > _MAX_BYTES:
                    raise ConfigError(f"what answers at {folder / SOCKET} is no node: it says too much")
            return json.loads(b"".join(parts))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise ConfigError(advice) from error
        except PermissionError as error:
            raise ConfigError(f"{folder / SOCKET} is another user's: ask as who runs the node") from error
        except TimeoutError as error:
            raise ConfigError(f"the node with the folder {folder} does not answer within {_LONGEST_S:g} s") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"what answers at {folder / SOCKET} is no node, or it is ending: {error}") from error


def _is_owner(connected: socket.socket) -> bool:
    """Whether this user, or root, is at the other end (Linux tells)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in {0, os.geteuid()}


@contextmanager
def _reachable(folder: Path) -> Iterator[str]:
    """A path of the socket that is short enough for one (108 bytes), however long that of the folder is."""
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) < 100:
        yield path
        return
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET}"
    finally:
        os.close(opened)
