"""The newest sum of a run, handed on: its model becomes a signed version of this member's repository. Once.

What was handed on last is on the disk, behind it. So a member that ended between a certificate and its delivery does it
when it is told again, and one that is told twice does nothing. A later result takes the place of one that still waits:
where rounds are quicker than deliveries, or a member catches up, only the newest is worth a version.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.events import EventSink, Notice
from fedmesh.files import read_bounded, write_atomically
from fedmesh.mesh.rounds import Result

__all__ = ["Delivered", "Delivering", "hand_on"]

_FILE = "delivered"
_LOOK_S = 0.5
_WITHIN_S = 600.0
Figures = TypeVar("Figures")


class Delivered:
    """The last round of a run whose model was handed on. `folder`: of the run, private to the device."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    @property
    def round(self) -> int:
        """Its number; 0: none was, or it cannot be read: a model that the repository has is not signed again."""
        if not self._path.exists():
            return 0
        try:
            return int(read_bounded(self._path, 32).decode("ascii"))
        except (ConfigError, ValueError):
            return 0

    def keep(self, number: int) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept, and is handed on again by the next start."""
        write_atomically(self._path, str(number).encode("ascii"), mode=0o600)


async def hand_on(
    what: str, number: int, delivering: Awaitable[Figures], *, kept: Delivered, events: EventSink
) -> Figures | None:
    """Delivers the model of `what`, whose number is kept then; says what came of it, or why nothing did."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            figures = await delivering
        kept.keep(number)
    except (FedMeshError, TimeoutError) as error:
        events(Notice(f"the model of {what} was not delivered: {str(error) or 'it took too long'}"))
        return None
    return figures


class Delivering:
    """Of one run, on one event loop.

    Args:
        deliver: hands a result on; told whether no later one follows. None: this member hands none on.
        is_here: whether the model of this SHA-256 is; it is on its way, since the next round begins with it.
        kept: what was handed on before.
        over: called when all rounds are over and nothing is left to be handed on.
    """

    def __init__(
        self,
        deliver: Callable[[Result, bool], Awaitable[None]] | None,
        *,
        is_here: Callable[[bytes], bool],
        kept: Delivered,
        over: Callable[[], Awaitable[None]],
        events: EventSink,
    ) -> None:
        self._deliver, self._is_here, self._kept = deliver, is_here, kept
        self._over, self._events = over, events
        self._wanted: Result | None = None
        self._newest = kept.round
        self._is_last = False
        self._task: asyncio.Task[None] | None = None

    def certified(self, result: Result, *, last: bool) -> None:
        """A round is over; `last`: the run, too. It may be told again."""
        self._is_last = self._is_last or last
        if not result.is_void and result.round > self._newest:
            self._wanted, self._newest = result, result.round
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Nothing is handed on any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._deliver is not None and (result := self._wanted) is not None:
            if self._is_here(result.model):
                self._wanted = None
                delivered = self._deliver(result, self._is_last)
                await hand_on(f"round {result.round}", result.round, delivered, kept=self._kept, events=self._events)
            else:
                await asyncio.sleep(_LOOK_S)
        if self._is_last:
            await self._over()
