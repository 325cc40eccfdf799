"""The agent's end of the process that trains (`fedmesh.fleet.child`): started when needed, ended when idle."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fedmesh.pipes import Pipe, PipeClosedError
from fedmesh.wire import dumps, loads

__all__ = ["IDLE_S", "Outcome", "Training"]

Buffer = bytes | memoryview

IDLE_S = 120.0
"""A process that is asked nothing for so long is ended: it holds more memory than all the rest of a device's member."""
_HEAD_BYTES = 1 << 16
_ENDED = {-signal.SIGXCPU: "limits", -signal.SIGKILL: "limits"}  # SIGKILL that is not ours: the kernel's, out of memory
_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a message: a reply and the node's state after it, or an error, one word of the protocol.

    Attributes:
        refused: why the client app did not do what it was asked, where the reply is its error; one word.
    """

    error: str
    reply: tuple[Buffer, ...] = ()
    state: bytes | None = None
    refused: str = ""


class Training:
    """The process of one run; one message at a time.

    Args:
        spec: what the process is to build, see `fedmesh.fleet.child.serve`: plain data, and long parts beside it.
        max_bytes: longest message, longest reply and longest state.
        module: what the process runs.
        idle_s: after so long without a message it is ended; the next message starts another.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        parts: Sequence[bytes],
        *,
        max_bytes: int,
        module: str = "fedmesh.fleet.child",
        idle_s: float = IDLE_S,
    ) -> None:
        self._spec: list[Buffer] = [dumps({**spec, "max_bytes": 2 * max_bytes}), *parts]
        self._max_bytes, self._module, self._idle_s = 2 * max_bytes, module, idle_s
        self._resting: asyncio.TimerHandle | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe | None = None
        self._introduction: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    async def ask(
        self, head: Mapping[str, Any], state: bytes, envelope: Sequence[Buffer], *, timeout_s: float
    ) -> Outcome:
        """What the process makes of a message; an error where it ended over it, or took longer than `timeout_s`.

        Cancelled, it ends the process: nobody waits any more.
        """
        pipe = self._started()
        self._rest(asked=True)
        try:
            return await self._outcome(pipe, head, state, envelope, timeout_s)
        finally:
            self._rest()

    async def _outcome(
        self, pipe: Pipe, head: Mapping[str, Any], state: bytes, envelope: Sequence[Buffer], timeout_s: float
    ) -> Outcome:
        asking = asyncio.ensure_future(self._exchanged(pipe, [dumps(head), state, *envelope]))
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await asyncio.shield(asking)
        except PipeClosedError:
            return Outcome(await self._ended())
        except TimeoutError:
            await self._killed(asking)
            return Outcome("limits")
        except asyncio.CancelledError:
            await self._killed(asking)
            raise
        if outcome.error in {"limits", "crashed"}:
            self.close()  # what it holds is not given back otherwise
        return outcome

    def warm_up(self) -> None:
        """Starts the process before it is asked anything: importing torch takes a Pi longer than a step of a round."""
        self._started()
        self._rest()

    def close(self) -> None:
        """Ends the process, and waits for that; idempotent."""
        self._rest(asked=True)
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is not None:
            process.kill()
            process.wait()

    def _rest(self, *, asked: bool = False) -> None:
        """It has nothing to do from now on, if there is one; `asked`: or has."""
        if self._resting is not None:
            self._resting.cancel()
        rests = not asked and self._process is not None
        self._resting = asyncio.get_running_loop().call_later(self._idle_s, self.close) if rests else None

    def _started(self) -> Pipe:
        """The pipe to the process. On the event loop's own thread: prctl(2) ends a child with the *thread* it is of."""
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        ours, theirs = Pipe.pair()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", self._module, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        # In a thread: it is read when all is imported, and may be longer than what the pipe holds until then.
        self._introduction = asyncio.ensure_future(asyncio.to_thread(_introduced, ours, self._spec))
        return ours

    async def _exchanged(self, pipe: Pipe, parts: Sequence[Buffer]) -> Outcome:
        assert self._introduction is not None
        await self._introduction
        return await asyncio.to_thread(_exchanged, pipe, parts, self._max_bytes)

    async def _ended(self) -> str:
        """Why the process ended, one word."""
        assert self._process is not None
        try:
            code = await asyncio.to_thread(self._process.wait, _GRACE_S)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        return _ENDED.get(code, "crashed")

    async def _killed(self, asking: "asyncio.Future[Outcome]") -> None:
        self.close()
        await asyncio.wait([asking])
        asking.exception()  # the pipe was closed under it


def _introduced(pipe: Pipe, spec: Sequence[Buffer]) -> None:
    with suppress(PipeClosedError):  # it ended at once: found when it is asked
        pipe.send(spec)


def _exchanged(pipe: Pipe, parts: Sequence[Buffer], max_bytes: int) -> Outcome:
    """Sends a job and waits for what comes of it. Raises: PipeClosedError: the process is gone, or talks nonsense."""
    pipe.send(parts)
    answer, _ = pipe.receive(max_bytes)
    head = loads(answer[0], max_bytes=_HEAD_BYTES) if answer else None
    match head:
        case {"error": str(error)} if error and len(answer) == 1:
            return Outcome(error)
        case {"error": "", "refused": str(refused)} if len(answer) >= 3:
            return Outcome("", tuple(answer[2:]), answer[1], refused)
    raise PipeClosedError("the training process answered what is no answer")
