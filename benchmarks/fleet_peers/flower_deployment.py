"""Flower's own deployment on loopback: a SuperLink and SuperNodes without TLS, and an app that does nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["measure"]

PATIENCE_S = 300.0
CONNECTION = """
[superlink]
default = "local"
[superlink.local]
address = "127.0.0.1:{port}"
insecure = true
"""
APP = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "noop"
version = "1.0.0"
description = "Rounds that do nothing."
license = "Apache-2.0"
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "fedmesh"
[tool.flwr.app.components]
serverapp = "noop.server_app:app"
clientapp = "noop.client_app:app"
[tool.flwr.app.config]
rounds = {rounds}
devices = {devices}
out = "{out}"
"""


def measure(*, devices: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and MB of memory that one idle SuperNode takes with its executor (RSS, as ps shows it).

    Raises:
        RuntimeError: Flower's commands are not there, or the run did not end.
    """
    tools = Path(sys.executable).parent
    if not (tools / "flower-superlink").exists():
        raise RuntimeError("flower-superlink is not installed beside this Python")
    with tempfile.TemporaryDirectory() as name, _processes() as started:
        folder, port, out = Path(name), _free_port(), Path(name) / "rounds.json"
        environment = {
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_HOME": str(folder / "home"),
            "PATH": f"{tools}:{os.environ['PATH']}",
        }
        (folder / "home").mkdir()
        connection = (
            f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        (folder / "home" / "config.toml").write_text(connection)
        app = folder / "app"
        shutil.copytree(Path(__file__).parent / "noop", app / "noop", ignore=shutil.ignore_patterns("__pycache__"))
        (app / "pyproject.toml").write_text(APP.format(rounds=rounds, devices=devices, out=out))

        def start(*command: str) -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            started.append(process)
            return process

        start("flower-superlink", "--insecure", "--port", str(port))
        _wait_for_port(port)
        nodes = [
            start("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(_free_port()))
            for _ in range(devices)
        ]
        time.sleep(10)  # until they have registered and started their executors
        idle = [_memory_mb(node.pid) for node in nodes]
        subprocess.run(
            ["flwr", "run", str(app), "local"], env=environment, check=True, capture_output=True, timeout=120
        )
        until = time.monotonic() + PATIENCE_S
        while not out.exists() or not out.read_text():
            if time.monotonic() > until:
                raise RuntimeError(f"Flower's run did not end:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.5)
        return {"round_s": json.loads(out.read_text()), "idle_rss_mb": idle}


@contextmanager
def _processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _memory_mb(session: int) -> float:
    """RSS of all processes of a session."""
    listed = subprocess.run(["ps", "-o", "rss=", "--sid", str(session)], check=True, capture_output=True, text=True)
    return round(sum(map(int, listed.stdout.split())) / 1024, 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"nobody listens on port {port}")


if __name__ == "__main__":
    print(json.dumps(measure(devices=2, rounds=5)))
