"""One cell in a process of its own: a simulation like any other, told of over a pipe.

The parent is told ``{"round": n}``, and at the end ``{"done": true}`` or ``{"failed": reason, "kind": class}``. What
libraries print goes to a file beside the run directory, with the traceback of what should not have happened.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fedmesh.errors import FedMeshError
from fedmesh.events import Event, RoundFinished, RunStarted
from fedmesh.federation.scenario import Scenario

__all__ = ["PRELOADED", "Request", "run_cell"]

PRELOADED = ("fedmesh.simulation.run", "fedmesh.privacy.preload", "sklearn.datasets")
"""Modules that runs need and that take seconds to import; none starts a thread."""
_LOST = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: `scenario` as JSON, in `folder`, anew or resumed."""

    scenario: str
    folder: str
    resume: bool
    workers: int
    data_dir: str | None


def run_cell(channel: Connection, request: Request) -> None:
    """Runs `request` to its end; returns also when it fails."""
    os.setpgid(0, 0)  # a Ctrl-C at the terminal is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the run's own workers notice
    threading.Thread(target=_end_with_parent, args=(channel,), daemon=True).start()
    with _printing_to(Path(f"{request.folder}.log")):
        word = _run(channel, request)
    with contextlib.suppress(OSError):  # nobody listens any more
        channel.send_bytes(json.dumps(word).encode())


def _run(channel: Connection, request: Request) -> dict[str, object]:
    def tell(event: Event) -> None:
        match event:
            case RunStarted():
                number = event.first_round - 1
            case RoundFinished():
                number = event.round
            case _:
                return
        channel.send_bytes(json.dumps({"round": number}).encode())

    try:
        from fedmesh.simulation.run import resume, simulate

        folder, data_dir = Path(request.folder), None if request.data_dir is None else Path(request.data_dir)
        if request.resume:
            resume(folder, data_dir=data_dir, workers=request.workers, events=tell)
        else:
            scenario = Scenario.parse(json.loads(request.scenario), source=folder.name)
            simulate(scenario, folder, data_dir=data_dir, workers=request.workers, events=tell)
    except FedMeshError as error:
        return _failed(str(error), error)
    except Exception as error:  # noqa: BLE001 - the last line of this process: the other cells go on
        traceback.print_exc()
        return _failed(f"{type(error).__name__}: {error}; its traceback is in {request.folder}.log", error)
    return {"done": True}


def _failed(reason: str, error: Exception) -> dict[str, object]:
    return {"failed": " ".join(reason.split()), "kind": type(error).__name__}


def _end_with_parent(channel: Connection) -> None:
    """Ends this process when the parent's end of the pipe is closed; the parent never writes."""
    with contextlib.suppress(EOFError, OSError):
        channel.recv_bytes(1)
    os._exit(_LOST)


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """What is printed goes to `path`, of this process and its children; an empty file is removed."""
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()
