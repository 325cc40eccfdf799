"""Real agents, full and lite, with their training processes and ledgers, under one coordinator and one secure sum."""

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from device_fleet import enrolled
from fleet_devices import COORDINATOR, Home
from fleet_halls import Hall, planned, small, store_of

from fedmesh.cli import toml
from fedmesh.client.journal import DeviceJournal
from fedmesh.coordinator import Wish
from fedmesh.events import DeviceAnswered, RoundFinished, RunPaused
from fedmesh.fleet.agent import Agent
from fedmesh.fleet.device import JOURNAL, load
from fedmesh.privacy.statement import Statement
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.lists import ListsFollower

FULL, LITE, ROUNDS = 3, 2, 3
PATIENCE_S = 500
PRIVATE = {
    "privacy__enabled": True,
    "client__batching": "auto",
    "rounds": ROUNDS,
    "partition__clients": FULL + LITE,
    "model__pretrain_epochs": 20,  # a backbone that is worth freezing
}


class Street(Home):
    """A mesh whose devices were enrolled as an operator does it, each with a configuration of its own.

    The first `full` devices are full ones, the next `lite` lite ones, and all others infer only. The last `late` are
    not enrolled yet.
    """

    def __init__(self, folder, scenario, *, full=FULL, lite=LITE, others=1, late=0):
        super().__init__(folder, 0)
        self.full, self.trains = full, full + lite
        self.names = tuple(f"device-{number}" for number in range(self.trains + others - late))
        for name in self.names:
            enrolled(self.mesh, name)
        self.spread()
        (folder / "small.toml").write_text(toml.dumps(scenario.model_dump(mode="json")))

    def device(self, number):
        tier = "full" if number < self.full else "lite" if number < self.trains else "inference"
        tables = {
            "tier": tier,
            "identity": {"folder": f"device-{number}"},
            "broker": {"host": "localhost"},
            "state": {"folder": f"state-{number}"},
            "limits": {"nice": 0},
        }
        if tier != "inference":
            tables["data"] = {"kind": "dataset", "name": "small.toml", "partition": number, "of": self.trains}
            tables["secure_aggregation"] = {"smallest_cohort": 4}
            tables["privacy"] = {"required": False, "example_epsilon": 20.0}  # two tasks share it
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
        async with (
            RemoteFiles(carrier.channel("files"), COORDINATOR) as files,
            ListsFollower(carrier, device.membership, files, pause_s=0.1),
        ):
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
    assert result["final"]["accuracy_int8"] > 0.8
    assert result["final"]["epsilon"] <= plan.scenario.privacy.epsilon
    assert service.results["lite"]["rounds"][0]["survivors"] >= 4
    asked = sum(event.clients for event in hall.told(RoundFinished))
    charges = [street.statement(number).charges for number in range(FULL + LITE)]
    assert sum(charges) == asked == ROUNDS * (FULL + LITE) + service.results["lite"]["rounds"][0]["clients"]
    assert min(charges) >= ROUNDS
    assert street.statement(FULL + LITE) is None, "a device that only infers is never asked"


@pytest.mark.slow
def test_a_device_that_is_enrolled_while_a_run_goes_on_is_in_its_later_rounds(tmp_path):
    scenario = small(rounds=4, partition__clients=5)
    plan = planned(scenario, lite_fraction=1.0, round={"deadline_s": 200.0, "min_devices": 4, "pause_s": 3.0})
    street = Street(tmp_path, plan.scenario, full=0, lite=5, others=0, late=1)

    def ask(wish):
        with store_of(street) as store:
            store.ask(store.find("digits").id, wish)

    async def until(holds):
        while not holds():
            await asyncio.sleep(0.05)

    async def scene():
        hall = Hall(street, plan, holds=True)
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(hall.service())
            for number in range(4):
                await stack.enter_async_context(living(hall, street.device(number)))
            await until(lambda: hall.handed)
            ask(Wish.PAUSE)
            hall.go_on()
            await until(lambda: hall.told(RunPaused))
            newcomer = enrolled(street.mesh, "device-4")
            roster, revocations = street.mesh.issuer.lists(time.time())
            for member in (newcomer, service.membership):
                member.accept(time.time(), roster=roster, revocations=revocations)
            service._housekeeping.take_over_roster()
            await service._housekeeping._announce()
            await stack.enter_async_context(living(hall, street.device(4)))
            await until(lambda: ("device-4", True) in [(e.device, e.accepted) for e in hall.told(DeviceAnswered)])
            ask(Wish.RUN)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall

    hall = asyncio.run(scene())
    rounds = [(event.survivors, event.failed) for event in hall.told(RoundFinished)]
    assert rounds[:2] == [(4, None), (4, None)]
    assert rounds[3] == (5, None)
    assert rounds[2] in {(4, None), (5, None)}
