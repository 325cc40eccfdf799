"""The units of systemd: what they start exists, they are watched, and they may do little."""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEVICE = ROOT / "clients/raspberry-pi/fedmesh-client.service"
COORDINATOR = ROOT / "deploy/systemd/fedmesh-coordinator.service"
UNITS = [DEVICE, COORDINATOR]


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str
    parser.read(unit)
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_watched_and_may_do_little(unit):
    service = read(unit)["Service"]
    assert service["Type"] == "notify"
    assert 10 <= int(service["WatchdogSec"]) <= 600
    assert service["Restart"] == "always"
    assert read(unit)["Unit"]["StartLimitIntervalSec"] == "0"
    wanted = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": ""}
    assert wanted.items() <= dict(service).items()
    assert service["User"] == "fedmesh"
    assert "MemoryMax" in service
    # torch and ONNX Runtime generate code: with it neither starts.
    assert "MemoryDenyWriteExecute" not in service


def test_what_a_device_does_gives_way():
    service = read(DEVICE)["Service"]
    assert int(service["Nice"]) >= 10
    assert int(service["OOMScoreAdjust"]) > 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed: apt-get install systemd")
    program = tmp_path / "fedmesh"
    program.touch(mode=0o755)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/fedmesh/bin/fedmesh", str(program)))
    environment = os.environ | {"SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, check=False, env=environment)
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_little_to_worry_about(unit):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed: apt-get install systemd")
    command = [analyze, "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "--offline" in done.stderr:
        pytest.skip("this systemd is older than 251 and cannot judge a file")
    assert done.returncode == 0, done.stdout[-300:]  # exposure of at most 2.0 of 10
