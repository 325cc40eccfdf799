"""Small real runs, and the command line as a process."""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fedmesh.federation.scenario import Scenario
from fedmesh.simulation import run
from fedmesh.simulation.zygote import Zygote, preload_of

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "simulations" / "digits.toml"
SMALL = {"rounds": 3, "partition.clients": 4, "model.pretrain_epochs": 3, "privacy.steps": 2}


def small_digits(**overrides: Any) -> Scenario:
    """The digits scenario, cut down to seconds; ``a__b=c`` sets ``a.b``."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return Scenario.load(DIGITS, {**SMALL, **dotted})


def simulate(scenario: Scenario, out: Path, **options: Any) -> dict[str, Any]:
    """`fedmesh.simulation.run.simulate` without the imports of each run, which cost more than a small run does."""
    return run.simulate(scenario, out, zygote=_zygote(), **options)


def resume(out: Path, **options: Any) -> dict[str, Any]:
    """`fedmesh.simulation.run.resume`, likewise."""
    return run.resume(out, zygote=_zygote(), **options)


@functools.cache
def _zygote() -> Zygote:
    """One for all runs of this process."""
    zygote = Zygote([*preload_of("vision", private=True), *preload_of("lite", private=False)])
    atexit.register(zygote.close)
    return zygote


def arguments(out: Path, **overrides: Any) -> list[str]:
    """`small_digits` for the command line."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in {**SMALL, **dotted}.items()]
    return ["simulate", str(DIGITS), "--out", str(out), "--workers", "2", *pairs]


_HELD = """
import sys
from fedmesh.cli import main

class Held:
    def __init__(self, out):
        self.out = out
    def __getattr__(self, name):
        return getattr(self.out, name)
    def write(self, text):
        count = self.out.write(text)
        if text.startswith("round "):
            self.out.flush()
            sys.stdin.readline()
        return count

sys.stderr = Held(sys.stderr)
sys.exit(main(sys.argv[1:]))
"""
"""`fedmesh`, which behind what it says of a round waits for a line on its stdin."""


def start(args: list[str], *, held: bool = False) -> subprocess.Popen[str]:
    """The command line, running, in a process group of its own.

    held: it waits behind each round until `go_on`, so that it is no further than whoever interrupts it thinks.
    """
    command = [sys.executable, *(["-c", _HELD] if held else ["-m", "fedmesh"]), *args]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if held else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )


def go_on(process: subprocess.Popen[str]) -> None:
    """Lets a run that is held go on with its next round."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str], timeout_s: float = 900) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def cli(*args: str) -> tuple[int, str, str]:
    """Runs the command line to its end."""
    return finish(start(list(args)))


def send_signal(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
    """Signals the command's own process; its workers must notice by themselves."""
    os.kill(process.pid, number)


def wait_for_round(process: subprocess.Popen[str], number: int, timeout_s: float = 900) -> list[str]:
    """Reads progress lines until round `number` is done, behind which a run that is held waits."""
    lines: list[str] = []
    end = time.monotonic() + timeout_s
    assert process.stderr is not None
    while time.monotonic() < end:
        line = process.stderr.readline()
        if not line:
            raise AssertionError(f"ended before round {number}: {lines}")
        lines.append(line)
        if line.startswith(f"round {number}/"):
            return lines
        if line.startswith("round ") and process.stdin is not None:
            go_on(process)
    raise AssertionError(f"round {number} was not reached: {lines}")


def steady(result: dict[str, Any], *, interrupted: bool = False) -> dict[str, Any]:
    """What of a result has to be the same when a run is repeated: all but times, and what depends on them.

    A run that was interrupted has exchanged some keys once more: its traffic and its sessions are others.
    """
    dropped = {"seconds", "latency_ms"}
    if interrupted:
        dropped |= {"bytes_up", "bytes_down", "stages", "sessions", "secure_aggregation"}
    kept: dict[str, Any] = _without(result, dropped)
    return kept


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value
