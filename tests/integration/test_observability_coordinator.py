"""``fedmesh coordinator run`` as systemd and Prometheus see it, at a real broker, with no device yet."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from mqtt_fleet import require_mosquitto

from fedmesh.testing.loopback_broker import free_port
from fedmesh.testing.loopback_fleet import LoopbackFleet

require_mosquitto()
pytestmark = pytest.mark.slow

CONFIG = """
[identity]
folder = "mesh/coordinator"
[broker]
host = "localhost"
port = {port}
[data]
folder = "data"
[metrics]
listen = "127.0.0.1:{metrics}"
[[task]]
scenario = "digits"
"""


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
        return answer.read().decode()


def test_a_coordinator_shows_what_it_does(tmp_path, monkeypatch):
    fleet = LoopbackFleet(tmp_path / "mesh")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        fleet.membership("coordinator")
        fleet.spread()
        metrics = free_port()
        (tmp_path / "coordinator.toml").write_text(CONFIG.format(port=fleet.broker.port, metrics=metrics))
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(120)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        command = [sys.executable, "-m", "fedmesh", "coordinator", "run", "coordinator.toml", "--log-format", "json"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            try:
                heard = []
                while not {"READY=1", "WATCHDOG=1"} <= {line.partition("\n")[0] for line in heard}:
                    heard.append(notify.recv(1000).decode())
                until = time.monotonic() + 120
                while "fedmesh_round_wanted_devices{" not in (shown := fetched(metrics, "/metrics")):
                    assert time.monotonic() < until
                    time.sleep(0.1)
                assert "fedmesh_broker_connected 1.0" in shown
                assert 'fedmesh_round_present_devices{task="digits"} 0.0' in shown
                assert json.loads(fetched(metrics, "/healthz")) == {"ok": True, "wrong": {}}
                assert json.loads(fetched(metrics, "/readyz")) == {"ok": True, "wrong": {}}
            finally:
                process.send_signal(signal.SIGTERM)
                _, lines = process.communicate(timeout=120)
        told = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        (waiting, *_) = [line for line in told if line.get("event") == "waiting_for_devices"]
        assert waiting["fields"]["task"] == "digits"
    finally:
        notify.close()
        fleet.close()
