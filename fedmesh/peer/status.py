"""What a running node says of itself to who may read its folder: over a socket there, one JSON object a connection."""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmesh.errors import ConfigError

__all__ = ["SOCKET", "StatusServer", "ask"]

SOCKET = "status.sock"
_MAX_BYTES = 4 << 20
_LONGEST_S = 5.0


class StatusServer:
    """In `folder`, from `start` to `aclose`; only its owner can connect (0600).

    Args:
        status: gives what is told, as plain data.
    """

    def __init__(self, folder: Path, status: Callable[[], dict[str, Any]]) -> None:
        self._folder, self._status = folder, status
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; what a process left there that was killed is replaced. Raises: ConfigError: it cannot."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            (self._folder / SOCKET).unlink(missing_ok=True)
            with _reachable(self._folder) as path:
                opened.bind(path)
            (self._folder / SOCKET).chmod(0o600)
            self._server = await asyncio.start_unix_server(self._answer, sock=opened)
        except OSError as error:
            opened.close()
            raise ConfigError(f"cannot listen at {self._folder / SOCKET}: {error.strerror or error}") from error

    async def aclose(self) -> None:
        """Nobody is answered any more."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                (self._folder / SOCKET).unlink(missing_ok=True)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(self._status()).encode())
            async with asyncio.timeout(_LONGEST_S):
                await writer.drain()
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()


def ask(folder: Path) -> dict[str, Any]:
    """What the node with this folder says. Raises: ConfigError: none runs, or it does not answer."""
    advice = f"no node runs with the folder {folder}: start one with fedmesh peer run CONFIG"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(_LONGEST_S)
        try:
            with _reachable(folder) as path:
                asking.connect(path)
            parts, size = [], 0
            while part := asking.recv(1 << 16):
                parts.append(part)
                size += len(part)
                if size > _MAX_BYTES:
                    raise ConfigError(f"what answers at {folder / SOCKET} is no node: it says too much")
            said = json.loads(b"".join(parts))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise ConfigError(advice) from error
        except PermissionError as error:
            raise ConfigError(f"{folder / SOCKET} is another user's: ask as who runs the node") from error
        except TimeoutError as error:
            raise ConfigError(f"the node with the folder {folder} does not answer within {_LONGEST_S:g} s") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"what answers at {folder / SOCKET} is no node, or it is ending: {error}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"what answers at {folder / SOCKET} is no node")
    return said


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
