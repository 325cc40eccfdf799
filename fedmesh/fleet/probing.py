"""The probe of a model in a process of its own: ``python -m fedmesh.fleet.probing FILE``.

What a model does to a process is done to that one: it may crash ONNX Runtime, which the agent never loads unless it
serves predictions itself.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedmesh.errors import FedMeshError, MismatchError

__all__ = ["Interrupted", "probe_apart"]

_MOST_S = 300.0
_LOOK_S = 0.1


class Interrupted(BaseException):
    """A probe was given up because its agent ends: it says nothing about the model, and must not count as a failure."""


def probe_apart(path: Path, *, stopped: Callable[[], bool] = lambda: False) -> None:
    """Runs `fedmesh.inference.probe.probe` on the model at `path`; blocks.

    Args:
        stopped: asked every now and then whether to give up.

    Raises:
        MismatchError: it must not run here, and why.
        Interrupted: `stopped` said so.
    """
    command = [sys.executable, "-m", "fedmesh.fleet.probing", str(path)]
    probing = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603 - our own
    with probing:
        try:
            said = _watched(probing, stopped)
        except BaseException:
            probing.kill()
            raise
    if probing.returncode < 0:
        raise MismatchError(f"it ended its process by signal {-probing.returncode}")
    if probing.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise MismatchError(lines[-1][:500] if lines else f"its process ended with {probing.returncode}")


def _watched(probing: "subprocess.Popen[bytes]", stopped: Callable[[], bool]) -> bytes:
    """What it wrote on stderr, once it has ended."""
    ends_at = time.monotonic() + _MOST_S
    while not stopped():
        try:
            return probing.communicate(timeout=_LOOK_S)[1]
        except subprocess.TimeoutExpired:  # nothing that it wrote is lost
            if time.monotonic() >= ends_at:
                raise MismatchError(f"it was still running after {_MOST_S:g} s") from None
    raise Interrupted


def main(path: str) -> int:
    """The process: 0, or 1 with what is wrong on stderr."""
    from fedmesh.inference import Engine
    from fedmesh.inference.probe import probe

    try:
        probe(Engine(Path(path)))
    except FedMeshError as error:
        sys.stderr.write(f"{str(error).replace(chr(10), ' ')}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
