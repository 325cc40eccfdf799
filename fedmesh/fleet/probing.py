"""The probe of a model in a process of its own: ``python -m fedmesh.fleet.probing FILE``.

What a model does to a process is done to that one: it may crash ONNX Runtime, which the agent never loads unless it
serves predictions itself.
"""

import subprocess
import sys
from pathlib import Path

from fedmesh.errors import FedMeshError, MismatchError

__all__ = ["probe_apart"]

_MOST_S = 300.0


def probe_apart(path: Path) -> None:
    """Runs `fedmesh.inference.probe.probe` on the model at `path`; blocks.

    Raises:
        MismatchError: it must not run here, and why.
    """
    command = [sys.executable, "-m", "fedmesh.fleet.probing", str(path)]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_MOST_S, check=False)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise MismatchError(f"it was still running after {_MOST_S:g} s") from error
    if ended.returncode < 0:
        raise MismatchError(f"it ended its process by signal {-ended.returncode}")
    if ended.returncode:
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        raise MismatchError(said[-1][:500] if said else f"its process ended with {ended.returncode}")


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
