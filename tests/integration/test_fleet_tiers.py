"""Real agents, full and lite, with their training processes and ledgers, under one coordinator and one secure sum."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from device_fleet import enrolled
from fleet_devices import Home
from fleet_halls import Hall, planned, small

from fedmesh.cli import toml
from fedmesh.client.journal import DeviceJournal
from fedmesh.events import RoundFinished
from fedmesh.fleet.agent import Agent
from fedmesh.fleet.device import JOURNAL, load
from fedmesh.privacy.statement import Statement

FULL, LITE, ROUNDS = 3, 2, 3
PATIENCE_S = 500
PRIVATE = {"privacy__enabled": True, "client__batching": "auto", "rounds": ROUNDS, "partition__clients": FULL + LITE}


class Street(Home):
    """A mesh whose devices were enrolled as an operator does it, each with a configuration of its own."""

    def __init__(self, folder, scenario):
        super().__init__(folder, 0)
        self.names = tuple(f"device-{number}" for number in range(FULL + LITE + 1))
        for name in self.names:
            enrolled(self.mesh, name)
        self.spread()
        (folder / "small.toml").write_text(toml.dumps(scenario.model_dump(mode="json")))

    def device(self, number):
        tier = "full" if number < FULL else "lite" if number < FULL + LITE else "inference"
        tables = {
            "tier": tier,
            "identity": {"folder": self.names[number]},
            "broker": {"host": "localhost"},
            "state": {"folder": f"state-{number}"},
        }
        if tier != "inference":
            of = FULL + LITE
            tables["data"] = {"kind": "dataset", "name": "small.toml", "partition": number, "of": of}
            tables["secure_aggregation"] = {"smallest_cohort": 4}
        else:
            tables["registry"] = {"trusted_root": "root.json"}
        path = self.folder / f"device-{number}.toml"
        path.write_text(toml.dumps(tables))
        found = load(path)
        found.config.state.folder.mkdir(mode=0o700)
        return found

    def statement(self, number):
        path = self.folder / f"state-{number}" / "ledgers" / f"device-{number}.ledger"
        return Statement(path).whole() if path.exists() else None


@asynccontextmanager
async def living(hall, device):
    """The device's agent, over the hall's carrier."""
    journal = DeviceJournal(device.config.state.folder / JOURNAL)
    carrier = hall.broker.join(device.membership.name.id)
    agent = Agent(device, carrier, journal)
    running = asyncio.ensure_future(agent.run())
    try:
        yield agent
    finally:
        agent.stop()
        await running
        await carrier.aclose()
        journal.close()


async def played(street, *plans):
    """The hall and service of a coordinator whose tasks the whole street was asked for."""
    hall = Hall(street, *plans)
    async with hall.service() as service:
        agents = [living(hall, street.device(number)) for number in range(FULL + LITE + 1)]
        for agent in agents:
            await agent.__aenter__()
        try:
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        finally:
            for agent in agents:
                await agent.__aexit__(None, None, None)
    return hall, service


@pytest.mark.slow
def test_full_and_lite_devices_in_two_tasks_side_by_side(tmp_path):
    plan = planned(
        small(**PRIVATE), name="both", lite_fraction=0.4, round={"deadline_s": 200.0, "min_devices": FULL + LITE}
    )
    other = planned(small(**PRIVATE), name="lite", lite_fraction=0.4, rounds=1, round={"deadline_s": 200.0})
    street = Street(tmp_path, plan.scenario)
    hall, service = asyncio.run(played(street, plan, other))
    result = service.results["both"]
    assert [entry["survivors"] for entry in result["rounds"]] == [FULL + LITE] * ROUNDS
    assert [entry["tier"] for entry in result["devices"]] == ["full"] * FULL + ["lite"] * LITE
    assert "inference" not in {entry["tier"] for entry in result["devices"]}
    assert result["final"]["accuracy_int8"] > 0.6
    assert result["final"]["epsilon"] <= plan.scenario.privacy.epsilon
    assert service.results["lite"]["rounds"][0]["survivors"] >= 4
    asked = sum(event.clients for event in hall.told(RoundFinished))
    charges = [street.statement(number).charges for number in range(FULL + LITE)]
    assert sum(charges) == asked == ROUNDS * (FULL + LITE) + service.results["lite"]["rounds"][0]["clients"]
    assert min(charges) >= ROUNDS
    assert street.statement(FULL + LITE) is None, "a device that only infers is never asked"
