"""A coordinator in one process, its operator's `fedmesh runs` in another: pause, resume, kill -9, stop."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmesh.cli import main

PROGRAM = """
import sys, time
import numpy as np
from flower_apps import LAYOUT, delta_app
from secure_federation import fedavg
from fedmesh.coordinator import Coordinator, RunStore, StoredControl
from fedmesh.flower import FleetGrid, InlineFleet, quiet_flower
from fedmesh.flower.arrays import vector_record

def slow(message, context):
    time.sleep(0.02)
    return delta_app()(message, context)

store = RunStore(sys.argv[1])
runs = store.runs()
run = runs[0].id if runs else store.create("small", {}, 1000)
with quiet_flower(), store.journal(run) as journal:
    control = StoredControl(store, journal, poll_s=0.05)
    coordinator = Coordinator(fedavg(), FleetGrid(InlineFleet(slow, 3)), journal, control=control)
    result = coordinator.run(vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)), 1000)
print("stopped" if result.stopped else "finished", len(result.records))
"""


def test_an_operator_in_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'runs.sqlite3'}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), url]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def seen() -> dict[str, Any]:
        if main(["runs", "list", "--json", "--journal", url]) != 0:
            capsys.readouterr()
            return {}  # there is no journal yet
        (one,) = json.loads(capsys.readouterr().out) or [{}]
        return one

    def wait(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 240
        while not wanted(one := seen()):
            assert time.monotonic() < end, one
            time.sleep(0.02)
        return one

    def ask(*command: str) -> None:
        assert main(["runs", *command, "small", "--journal", url]) == 0
        capsys.readouterr()

    coordinator = start()
    try:
        wait(lambda one: one.get("state") == "running" and one.get("round", 0) >= 2)
        ask("pause")
        paused = wait(lambda one: one.get("state") == "paused")
        time.sleep(0.3)
        assert seen()["round"] == paused["round"]
        ask("resume")
        wait(lambda one: one.get("state") == "running" and one["round"] > paused["round"])
        coordinator.kill()
        coordinator.wait(240)
        killed = wait(lambda one: one.get("state") == "interrupted")
        coordinator.stdout.close()
        coordinator = start()
        wait(lambda one: one.get("state") == "running" and one["round"] > killed["round"])
        ask("stop", "--now")
        said, _ = coordinator.communicate(timeout=240)
        assert said == f"stopped {seen()['round'] + 1}\n"
        assert seen()["state"] == "stopped"
    finally:
        coordinator.kill()
        coordinator.wait(240)
        coordinator.stdout.close()
