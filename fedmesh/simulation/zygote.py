"""Where workers come from: a process that has imported the client app and done nothing else, and forks when asked.

Forking the engine's own process would be faster by the time of the imports, but it has threads (torch, ONNX Runtime,
progress bars) and perhaps a GPU, and a fork of those may hang. The zygote is single-threaded. It starts while the
engine prepares data, so its imports (1.3 s) cost nothing, and a dead worker is replaced in milliseconds; `Forked` is
the other launcher, for client apps that exist only as an object in the engine's process.

When the engine's process ends, however it ends, the zygote reads the end of its control socket, kills its workers and
exits: there are no orphans. `Borrowed` is the launcher of one run among several that share a zygote.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from fedmesh.errors import ConfigError
from fedmesh.pipes import Pipe, PipeClosedError
from fedmesh.plugins import CLIENTS, available

__all__ = ["Borrowed", "Forked", "Launcher", "WorkerProcess", "Zygote", "preload_of"]

PRELOADED = ("fedmesh.simulation.worker",)
_OPACUS = "fedmesh.privacy.preload"
_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_EXIT_GRACE_S = 5.0

_engine_ends: "weakref.WeakSet[Pipe]" = weakref.WeakSet()
"""The engine's ends of all pipes: a forked worker must close them, or the others would outlive the engine."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker that was launched: its pid and the engine's end of its pipe."""

    pid: int
    pipe: Pipe = field(compare=False)


class Launcher(Protocol):
    """Starts worker processes and says how they ended."""

    def launch(self) -> WorkerProcess:
        """A new worker that serves the other end of the pipe. Raises: ConfigError when none can be started."""
        ...

    def ending(self, worker: WorkerProcess) -> str:
        """Kills `worker` if it lives, and says how it ended, e.g. ``"was killed by signal 9"``."""
        ...

    def close(self) -> None:
        """Ends every worker; idempotent."""
        ...


class Zygote:
    """Forks workers from a clean process. Start it early: it returns at once and imports in the background."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        """Imports `PRELOADED` and `modules`, in this order; a module that is missing fails in the worker instead."""
        mine, its = Pipe.pair()
        command = [sys.executable, "-m", "fedmesh.simulation.zygote", str(its.fileno()), *PRELOADED, *modules]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a client app prints must not land in this process's machine-readable output
                pass_fds=(its.fileno(),),
                process_group=0,  # a Ctrl-C at the terminal is the engine's to handle
                env={**os.environ, **_SINGLE_THREADED, "PYTHONPATH": path},
            )
        except OSError as error:
            raise ConfigError(f"the worker process cannot be started: {error}") from error
        finally:
            its.close()
        self._control = mine
        self._endings: dict[int, int] = {}
        self._has_launched = False
        _engine_ends.add(mine)

    def launch(self) -> WorkerProcess:
        """See `Launcher.launch`; waits for the imports the first time."""
        mine, its = Pipe.pair()
        self._has_launched = True
        try:
            self._control.send([b"fork", b""], [its.fileno()])
            while True:
                word, pid, status = self._next_word()
                if word == b"forked":
                    break
                self._endings[pid] = status
        except PipeClosedError as error:
            mine.close()
            raise ConfigError(f"the process that starts workers is gone: it {self._own_ending()}") from error
        finally:
            its.close()
        _engine_ends.add(mine)
        return WorkerProcess(pid, mine)

    def ending(self, worker: WorkerProcess) -> str:
        """See `Launcher.ending`."""
        worker.pipe.close()
        try:
            self._control.send([b"kill", str(worker.pid).encode()])
            while worker.pid not in self._endings:
                _, pid, status = self._next_word()
                self._endings[pid] = status
        except PipeClosedError:
            return f"is gone with the process that started it, which {self._own_ending()}"
        return _describe(self._endings.pop(worker.pid))

    def close(self) -> None:
        """See `Launcher.close`."""
        self._control.close()
        if not self._has_launched:  # a run that was refused: no worker to end, perhaps seconds of imports to come
            self._process.kill()
        try:
            self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:  # still importing, or stopped by a debugger
            self._process.kill()
            self._process.wait()

    def _next_word(self) -> tuple[bytes, int, int]:
        (word, pid, status), _ = self._control.receive()
        return word, int(pid), int(status)

    def _own_ending(self) -> str:
        try:
            code = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            return "does not answer"
        return f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"


class Borrowed:
    """Workers of a zygote that somebody else keeps: `close` ends them and leaves the zygote to the next run."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._workers: list[WorkerProcess] = []

    def launch(self) -> WorkerProcess:
        """See `Launcher.launch`."""
        worker = self._zygote.launch()
        self._workers.append(worker)
        return worker

    def ending(self, worker: WorkerProcess) -> str:
        """See `Launcher.ending`."""
        self._workers.remove(worker)
        return self._zygote.ending(worker)

    def close(self) -> None:
        """See `Launcher.close`."""
        while self._workers:
            self._zygote.ending(self._workers.pop())


class Forked:
    """Forks workers from this very process: only for client apps that cannot be imported anywhere else."""

    def __init__(self, serve: Callable[[Pipe], None]) -> None:
        self._serve = serve
        self._pids: set[int] = set()

    def launch(self) -> WorkerProcess:
        """See `Launcher.launch`."""
        mine, its = Pipe.pair()
        _engine_ends.add(mine)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for end in list(_engine_ends):
                end.close()
            os.setpgid(0, 0)
            os.dup2(2, 1)
            _run_worker(self._serve, its)
        its.close()
        self._pids.add(pid)
        return WorkerProcess(pid, mine)

    def ending(self, worker: WorkerProcess) -> str:
        """See `Launcher.ending`."""
        worker.pipe.close()
        return self._reap(worker.pid)

    def close(self) -> None:
        """See `Launcher.close`."""
        for pid in list(self._pids):
            self._reap(pid)

    def _reap(self, pid: int) -> str:
        self._pids.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            return "was reaped by someone else"
        return _describe(status)


def preload_of(client: str, *, private: bool) -> tuple[str, ...]:
    """Modules that a zygote should import for the client app `client`; DP-SGD needs Opacus, two seconds more.

    The app's module imports torch if it is going to need it; Opacus is then imported too, and left alone otherwise.
    """
    point = available(CLIENTS).get(client)
    return (*((point.module,) if point else ()), *((_OPACUS,) if private else ()))


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = "; the system may be out of memory" if number == signal.SIGKILL else ""
        return f"was killed by signal {number}{hint}"
    return f"exited with status {os.WEXITSTATUS(status)}"


def _run_worker(serve: Callable[[Pipe], None], pipe: Pipe) -> NoReturn:
    """The life of a forked child; never returns into the code that forked it."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        serve(pipe)
        status = 0
    except PipeClosedError:
        status = 0  # the engine is gone, or does not need this worker any more
    except BaseException:  # noqa: BLE001 - the last frame of the process: whatever it is, it is shown
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap_all(control: Pipe, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        control.send([b"ended", str(pid).encode(), str(status).encode()])


def _fork_on_demand(control: Pipe, wakeup_fd: int) -> None:
    """Serves fork requests until the engine closes the control socket."""
    from fedmesh.simulation.worker import serve

    children: set[int] = set()
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), wakeup_fd], [], [])
            if wakeup_fd in ready:
                os.read(wakeup_fd, 4096)
            _reap_all(control, children)
            if control.fileno() not in ready:
                continue
            (word, argument), fds = control.receive()
            if word == b"kill":
                if int(argument) in children:  # else it has ended, and the pid may be somebody else's by now
                    os.kill(int(argument), signal.SIGKILL)
                continue
            (fd,) = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                _run_worker(serve, Pipe.from_fd(fd))
            os.close(fd)
            children.add(pid)
            control.send([b"forked", str(pid).encode(), b"0"])
    except PipeClosedError:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def main(arguments: Sequence[str]) -> None:
    """``python -m fedmesh.simulation.zygote FD MODULE...``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = Pipe.from_fd(int(arguments[0]))
    os.set_inheritable(control.fileno(), False)
    for name in arguments[1:]:
        if name == _OPACUS and "torch" not in sys.modules:
            continue  # this client app trains without either
        with contextlib.suppress(ImportError):  # the worker imports it again and reports what is wrong, with its name
            importlib.import_module(name)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)  # wakes the select
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody touches them
    _fork_on_demand(control, reader)


if __name__ == "__main__":
    main(sys.argv[1:])
