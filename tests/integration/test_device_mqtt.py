"""``fedmesh client run`` as a process of its own, over a real Mosquitto, with a coordinator that is a test."""

import asyncio
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import heads
import numpy as np
import pytest
from device_fleet import Voice, private_task, until
from mqtt_fleet import require_mosquitto

from fedmesh.cli import toml
from fedmesh.fleet.protocol import node_id_of
from fedmesh.identity import Membership
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.mqtt import MqttTransport

COMMAND = [sys.executable, "-m", "fedmesh", "client"]
TELLING = """
import sys
from fedmesh.cli import main
code = main(sys.argv[1:])
print("\\n".join(sys.modules))
sys.exit(code)
"""
"""`fedmesh`, which at its end says what it has loaded."""


@dataclass
class Place:
    """What `Voice` wants to know of a site."""

    coordinator: Membership
    device_name: str
    node_id: int


@pytest.fixture
def fleet(tmp_path):
    require_mosquitto()
    with LoopbackFleet(tmp_path) as fleet:
        yield fleet


def configured(fleet: LoopbackFleet, tier: str = "lite") -> Path:
    examples = heads.examples(0)
    np.savez(fleet.folder / "data.npz", x=examples.x, y=examples.y)
    tables = {
        "tier": tier,
        "identity": {"folder": "pi-1"},
        "broker": {"host": "localhost", "port": fleet.broker.port},
        "state": {"folder": "state"},
        "data": {"kind": "npz", "path": "data.npz"},
        "privacy": {"required": True},
        "secure_aggregation": {"required": False},
    }
    path = fleet.folder / "device.toml"
    path.write_text(toml.dumps(tables))
    return path


def status(path: Path) -> dict[str, object]:
    return json.loads(subprocess.run([*COMMAND, "status", str(path), "--json"], capture_output=True, check=True).stdout)


def started(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, "run", str(path), "--once"], stderr=subprocess.PIPE, text=True)


def telling(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TELLING, "client", "run", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def refused(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "run", str(path)], capture_output=True, text=True, check=False)


def test_a_device_over_mqtt(fleet):
    device = fleet.membership("pi-1")
    coordinator = fleet.membership("coordinator")
    fleet.spread()
    path = configured(fleet)

    async def main():
        async with await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as carrier:
            voice = Voice(Place(coordinator, "pi-1", node_id_of(device.name)), carrier)
            process = started(path)
            try:
                assert (await voice.hear("here"))[0]["available"]
                assert (await voice.offer(private_task()))["accepted"]
                reply, message = await voice.round(1)
                assert (reply.error, message.has_error()) == ("", False)
                there = await asyncio.to_thread(status, path)
                assert there["running"] is True
                assert there["identity"]["name"] == "fedmesh://home/pi-1"
                assert there["privacy"]["example"]["charges"] == 1
                assert [run["name"] for run in there["runs"]] == ["head"]
                second = await asyncio.to_thread(refused, path)
                assert second.returncode == 2
                assert "another agent runs" in second.stderr

                process.send_signal(signal.SIGTERM)
                await until(lambda: process.poll() is not None)
                assert process.returncode == 0, process.stderr.read()
                process.stderr.close()
                missed = voice.train(2)
                await voice.instruct(missed)  # while nobody is there: the broker and the spools keep it
                process = started(path)
                reply, message = await voice.reply()
                assert (reply.message, reply.error) == (missed.metadata.message_id, "")
                await voice.end()
                await until(lambda: process.poll() is not None)
                assert process.returncode == 0, process.stderr.read()
            finally:
                process.kill()
                process.wait()
                process.stderr.close()
                await voice.close()

    asyncio.run(main())
    there = status(path)
    assert there["running"] is False
    assert there["runs"] == []
    assert there["privacy"]["example"]["charges"] == 2


@pytest.mark.parametrize("tier", ["lite", "full"])
def test_a_device_that_waits_for_its_first_run_loads_nothing_that_only_runs_need(fleet, tier):
    device = fleet.membership("pi-1")
    coordinator = fleet.membership("coordinator")
    fleet.spread()
    path = configured(fleet, tier)

    async def main() -> str:
        async with await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as carrier:
            voice = Voice(Place(coordinator, "pi-1", node_id_of(device.name)), carrier)
            with telling(path) as process:
                try:
                    assert (await voice.hear("here"))[0]["available"]
                    process.send_signal(signal.SIGTERM)
                    told, _ = await asyncio.to_thread(process.communicate, timeout=120)
                    assert process.returncode == 0
                finally:
                    process.kill()
                    await voice.close()
            return told

    loaded = {name.partition(".")[0] for name in asyncio.run(main()).splitlines()}
    assert {"paho", "cryptography", "pydantic"} <= loaded
    assert not loaded & {
        "torch",
        "flwr",
        "opacus",
        "onnx",
        "onnxruntime",
        "numpy",
        "scipy",
        "sklearn",
        "tuf",
        "fastapi",
    }
