"""A device that enrols while a run goes on, by commands alone: a real issuer, broker, coordinator and devices.

Nobody carries lists or tells anybody: its packets are a stranger's at first, which is why the coordinator asks the
issuer, announces what it hears to the others, and is told by the newcomer once more that it is there.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from mqtt_fleet import require_mosquitto

from fedmesh.privacy.statement import Statement
from fedmesh.testing.process_fleet import COORDINATOR, ProcessFleet

require_mosquitto()
DEVICES, NEWCOMER = 4, "device-4"
PATIENCE_S = 300.0


def said(command, **environment):
    """What a command prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "fedmesh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@contextlib.contextmanager
def issuing(folder):
    """``fedmesh ca serve``; where it listens."""
    command = [sys.executable, "-m", "fedmesh", "ca", "serve", str(folder), "--listen", "localhost:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        said = process.stdout.readline().strip(" .\n")  # The issuer of 'home' listens at HOST:PORT.
        yield f"localhost:{said.rpartition(':')[2]}"
    finally:
        process.kill()
        process.wait(120)
        process.stdout.close()


def enrol(fleet, token):
    """As on any new device; its file is another device's with its own name."""
    said(["enroll", "--dir", fleet.folder / "mesh" / NEWCOMER], FEDMESH_TOKEN=token)
    other = fleet.devices[-1]
    text = (fleet.folder / f"{other}.toml").read_text().replace(other, NEWCOMER)
    (fleet.folder / f"{NEWCOMER}.toml").write_text(text)
    shutil.copy(fleet.folder / f"{other}.npz", fleet.folder / f"{NEWCOMER}.npz")
    fleet.starts[NEWCOMER] = 0


async def until(fleet, holds):
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            assert fleet.processes[COORDINATOR].poll() is None, fleet.said(COORDINATOR)
            await asyncio.sleep(0.05)


@pytest.mark.slow
def test_a_device_that_enrols_while_a_run_goes_on_is_in_a_later_round(tmp_path):
    fleet = ProcessFleet(tmp_path, devices=DEVICES, rounds=500, deadline_s=120.0)

    async def main():
        async with fleet:
            with issuing(tmp_path / "mesh" / "ca") as address:
                with (tmp_path / f"{COORDINATOR}.toml").open("a") as file:
                    file.write(f'[issuer]\naddress = "{address}"\n')
                fleet.start()
                token = ["ca", "token", NEWCOMER, "--ca", tmp_path / "mesh" / "ca", "--address", address]
                token = await asyncio.to_thread(said, token)
                await until(fleet, fleet.finished)
                await asyncio.to_thread(enrol, fleet, token)
                before = len(fleet.finished())
                fleet.start(NEWCOMER)
                await until(fleet, lambda: any(event["survivors"] == DEVICES + 1 for event in fleet.finished()))
                return fleet.finished(), before

    rounds, before = asyncio.run(main())
    assert [event["survivors"] for event in rounds[:before]] == [DEVICES] * before
    assert [event["failed"] for event in rounds if event["failed"]] == []
    assert Statement(fleet.state(NEWCOMER) / "ledgers" / f"{NEWCOMER}.ledger").whole().charges >= 1
