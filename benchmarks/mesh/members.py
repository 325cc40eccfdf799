"""Members as processes, with the settings of an operator who sets none, and what is seen of them."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fedmesh.testing.mesh_peers import COMMAND, MeshPeers
from fedmesh.testing.namespaces import Lan, missing

__all__ = ["apart", "names_of", "running", "until", "wait_for_all"]

_STARTED = 4
"""At once: they share the processor, and who waits for it too long is accused by the others."""


def names_of(count: int) -> tuple[str, ...]:
    """What members are called; the first is the seed of all others."""
    return tuple(f"member-{number}" for number in range(count))


def until(done: Callable[[], bool], *, within_s: float, about: Callable[[], str]) -> float:
    """Seconds until something was so. Raises: SystemExit: it never was."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > within_s:
            raise SystemExit(f"{about()} within {within_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def apart(stack: ExitStack) -> tuple[str, ...]:
    """What stands before a command so that its loopback is nobody else's; nothing where there are no namespaces."""
    if missing():
        return ()
    machine = stack.enter_context(Lan()).machine("all")
    machine.up()
    return tuple(machine.inside)


@contextmanager
def running(count: int, *, before: tuple[str, ...] = ()) -> Iterator[MeshPeers]:
    """So many members on loopback, each of whom knows all others."""
    with (
        TemporaryDirectory() as folder,
        MeshPeers(Path(folder), *names_of(count), command=(*before, *COMMAND)) as peers,
    ):
        for at in range(0, count, _STARTED):
            here = names_of(count)[at : at + _STARTED]
            peers.start(*here)
            wait_for_start(peers, here)
        wait_for_all(peers, names_of(count))
        yield peers


def wait_for_start(peers: MeshPeers, names: tuple[str, ...]) -> None:
    """Returns when these answer."""
    waiting = set(names)

    def done() -> bool:
        waiting.difference_update([name for name in waiting if peers.status(name)])
        for name in waiting:
            if peers.processes[name].poll() is not None:
                raise SystemExit(f"{name} ended:\n{peers.said(name)}")
        return not waiting

    until(done, within_s=120.0, about=lambda: f"{', '.join(waiting)} did not start")


def wait_for_all(peers: MeshPeers, names: tuple[str, ...], *, within_s: float = 120.0) -> float:
    """Seconds until each of `names` held each of them for alive."""
    waiting = list(names)

    def done() -> bool:
        while waiting and sum(state == "alive" for state in peers.view(waiting[0]).values()) >= len(names):
            waiting.pop(0)
        return not waiting

    return until(done, within_s=within_s, about=lambda: f"{len(waiting)} of {len(names)} do not know all others")
