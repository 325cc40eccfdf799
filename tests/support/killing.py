"""Devices that charge and take steps until `kill -9`, over and over, in a process of their own."""

import subprocess
import sys
import textwrap

KILLED_OVER_AND_OVER = """
import os, random, signal, sys, time

def size():
    return steps.stat().st_size if steps.exists() else 0

def device():
    taken = os.open(steps, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with opened() as ledger:
        while True:
            ledger.charge(event)
            os.write(taken, b"x")  # the step

def kill_devices(kills, seed, longest_s):
    rng = random.Random(seed)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            device()
        wanted, patience = size() + rng.randrange(4), time.monotonic() + 10
        while size() < wanted and time.monotonic() < patience:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0.0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        yield
"""
"""Defines `kill_devices`, which gives control after each kill; `steps`, `event` and `opened` are the script's own."""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What came of `script` in a new interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
