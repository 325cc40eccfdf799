"""Processes of the example: started, killed as by a power cut, and waited for by what they tell."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 300.0


class Stage:
    """Everything runs in, and logs to, one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.playing: dict[str, subprocess.Popen[bytes]] = {}

    def fedmesh(self, *words: str | Path, **environment: str) -> str:
        """Runs a command of fedmesh to its end; what it printed."""
        command = [sys.executable, "-m", "fedmesh", *map(str, words)]
        told = {**os.environ, **environment}
        done = subprocess.run(command, cwd=self.folder, env=told, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def start(self, name: str, *command: str | Path) -> None:
        """Starts a command of fedmesh, or a program by its path, that goes on."""
        words = command if Path(command[0]).is_absolute() else (sys.executable, "-m", "fedmesh", *command)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.playing[name] = subprocess.Popen(list(map(str, words)), cwd=self.folder, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """Kill -9: no goodbye, nothing written."""
        process = self.playing.pop(name)
        process.kill()
        process.wait()

    def end(self) -> None:
        """Everybody leaves in good order, the broker and the authority last."""
        for process in reversed(self.playing.values()):
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def until(self, event: str, **facts: Any) -> dict[str, Any]:
        """Waits for the coordinator to tell a fact; the fact."""
        path, begun = self.folder / "events.jsonl", time.monotonic()
        while time.monotonic() - begun < PATIENCE_S:
            told = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
            for fact in told:
                if fact["event"] == event and facts.items() <= fact.items():
                    return fact
            time.sleep(0.1)
        raise SystemExit(f"no {event} {facts} within {PATIENCE_S:.0f} s: look at the logs in {self.folder}")
