"""A coordinator as a neighbour in the swarm: its files are those of a neighbour that has everything, over MQTT.

The swarm asks it as it asks others, and believes it as little: metadata for its signatures, all else for its SHA-256.
Here its announcement becomes a neighbour's, and a request one for a file. The coordinator does not know of it.
"""

import asyncio
from collections.abc import Callable

from fedmesh.errors import FedMeshError, FileError, RegistryError
from fedmesh.mesh.swarm.messages import Announce, Bits, Cancel, Message, Piece, Refusal, Request, decode, encode
from fedmesh.registry.limits import LARGEST_CHUNK_BYTES, Limits
from fedmesh.registry.source import check_name
from fedmesh.transport.files import RemoteFiles

__all__ = ["Upstream"]

_REQUESTS = 16
"""Under way; the swarm asks two things at a time."""
_FETCH_S = 25.0
"""Less than the swarm waits for an answer: `Settings.request_s`."""


class Upstream:
    """Of one coordinator.

    Args:
        files: its files. hear: what the swarm is to hear from it.
    """

    def __init__(self, files: RemoteFiles, hear: Callable[[bytes], None]) -> None:
        self._files, self._hear = files, hear
        self._loop = asyncio.get_running_loop()
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self._kept = "", b""

    def announce(self, pointer: bytes) -> None:
        """It announces this; a reason to look, and no more."""
        if pointer:
            self._say(Announce(pointer))

    def send(self, data: bytes) -> None:
        """The swarm has this for it; what follows from that is heard later."""
        match decode(data):
            case Request() as request:
                self._asked(request)
            case Bits(blob, count, _, wants) if wants:  # a repository has all chunks of what it names
                self._loop.call_soon(self._say, Bits(blob, count, (1 << count) - 1, wants=False))
            case Cancel(number):
                if task := self._fetching.pop(number, None):
                    task.cancel()
            case _:
                pass  # it does not fetch from us

    async def aclose(self) -> None:
        """Nothing is fetched any more."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _asked(self, request: Request) -> None:
        if len(self._fetching) >= _REQUESTS:
            self._loop.call_soon(self._say, Refusal(request.number, "busy"))
            return
        task = self._fetching[request.number] = self._loop.create_task(self._fetch(request))
        task.add_done_callback(lambda _: self._fetching.pop(request.number, None))

    async def _fetch(self, request: Request) -> None:
        try:
            data = await self._file(request)
        except (RegistryError, FileError) as error:
            if error.code != "timeout":  # silence says less than a refusal
                self._say(Refusal(request.number, "unknown"))
            return
        except FedMeshError:
            return
        if request.offset >= len(data):
            self._say(Refusal(request.number, "range"))
        else:
            end = request.offset + request.length
            piece = data[request.offset : end]
            self._kept = (request.name, data) if end < len(data) else ("", b"")  # until its last piece was asked for
            self._say(Piece(request.number, len(data), piece))

    async def _file(self, request: Request) -> bytes:
        """The whole of it; of a longer one the pieces are asked for one after the other. Raises: FedMeshError."""
        name = check_name(request.name)
        if request.offset and name == self._kept[0]:
            return self._kept[1]
        limits = Limits()
        most = LARGEST_CHUNK_BYTES if name.startswith("chunks/") else max(limits.golden_bytes, limits.metadata_bytes)
        return await self._files.fetch(name, max_bytes=most, timeout_s=_FETCH_S)

    def _say(self, message: Message) -> None:
        self._hear(encode(message))
