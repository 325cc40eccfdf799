"""A fleet of processes at a real Mosquitto: each actor under each fault, one after another, at random moments.

What is exact is in test_fault_matrix.py; here nobody chooses the moment, and everything is real. The seed is in the
test's name; the moments depend on the machine.
"""

import asyncio
import json
import random
import signal

import pytest
from mqtt_fleet import require_mosquitto

from fedmesh.client.identities import anchor_path
from fedmesh.client.journal import DeviceJournal
from fedmesh.fleet.device import JOURNAL
from fedmesh.privacy import Anchor
from fedmesh.privacy.statement import Statement
from fedmesh.testing.process_fleet import COORDINATOR, ProcessFleet

require_mosquitto()

DEVICES, ROUNDS = 5, 13
"""Rounds: one for each fault, and some more, or the last one may strike a coordinator that is done and leaves."""
PATIENCE_S = 500.0
FAULTS = [
    *(("device-1", kind) for kind in ("kill", "restart", "freeze", "cut")),
    *((COORDINATOR, kind) for kind in ("kill", "restart", "freeze", "cut")),
    ("broker", "kill"),
    ("broker", "restart"),
]


async def strike(fleet: ProcessFleet, name: str, kind: str) -> None:
    if name == "broker":
        broker = fleet.fleet.broker
        await asyncio.to_thread(broker.kill if kind == "kill" else broker.stop)
        await asyncio.to_thread(broker.start)
        return
    match kind:
        case "freeze":
            await fleet.freeze(name, 2.0)
        case "cut":
            await fleet.cut(name, 1.0)
        case _:
            await fleet.kill(name, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            fleet.start(name)


async def committed(fleet: ProcessFleet, rounds: int) -> None:
    """Until so many are."""
    while len({event["round"] for event in fleet.finished()}) < rounds:
        assert not (fleet.processes[COORDINATOR].poll() and fleet.said(COORDINATOR)), fleet.said(COORDINATOR)
        for name in fleet.devices:
            assert fleet.processes[name].poll() is None, fleet.said(name)
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_every_fault_once_and_the_run_is_finished(tmp_path, seed):
    chance = random.Random(seed)
    fleet = ProcessFleet(tmp_path, devices=DEVICES, rounds=ROUNDS, deadline_s=20.0)

    async def main() -> int:
        async with fleet, asyncio.timeout(PATIENCE_S):
            fleet.start()
            for number, (name, kind) in enumerate(chance.sample(FAULTS, len(FAULTS)), start=1):
                await committed(fleet, number)
                await asyncio.sleep(chance.uniform(0.0, 1.0))  # somewhere in the next round
                if fleet.processes[COORDINATOR].poll() is None:
                    await strike(fleet, name, kind)
            code = await asyncio.to_thread(fleet.processes[COORDINATOR].wait)
            while any(runs(fleet, name) for name in fleet.devices):
                await asyncio.sleep(0.1)
            for name in fleet.devices:
                await fleet.kill(name, signal.SIGTERM)
                assert fleet.processes[name].returncode == 0, fleet.said(name)
            return code

    assert asyncio.run(main()) == 0, fleet.said(COORDINATOR)
    result = json.loads(fleet.result.read_text())
    assert [entry["round"] for entry in result["rounds"]] == list(range(1, ROUNDS + 1))
    for name in fleet.devices:
        statement = Statement(fleet.state(name) / "ledgers" / f"{name}.ledger")
        statement.check_contains(Anchor(anchor_path(tmp_path / "mesh" / name, name)).heads()["example"])
        # One each round, and for each of three restarts a training that was begun before and another one behind it.
        assert statement.whole().charges <= ROUNDS + 3, name


def runs(fleet: ProcessFleet, name: str) -> int:
    journal = DeviceJournal(fleet.state(name) / JOURNAL)
    try:
        return len(journal.runs())
    finally:
        journal.close()
