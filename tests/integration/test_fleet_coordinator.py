"""A coordinator over the memory carrier, with real client apps on the other side."""

import asyncio
import time

import numpy as np
import pytest
from fleet_devices import COORDINATOR, Home, seeded
from fleet_halls import DEVICES, PATIENCE_S, Hall, examples, planned, small, store_of

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.identities import device_name
from fedmesh.coordinator import Coordinator, Journal
from fedmesh.errors import ConfigError
from fedmesh.events import (
    DeviceSeen,
    Notice,
    PacketRefused,
    RoundFinished,
    RunStopped,
    WaitingForDevices,
)
from fedmesh.federation.plan import make_strategy
from fedmesh.federation.securing import secure_script
from fedmesh.fleet.prepared import prepare
from fedmesh.flower import FleetGrid, InlineFleet, partition_of, quiet_flower
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.secagg import Identity, Roster
from fedmesh_clients import vision


def inline(home, plan, folder):
    """What the same rounds come to with all devices in this process."""
    prepared = prepare(plan, folder)
    coordinator = home.membership(COORDINATOR)
    apps = {}

    def app(message, context):
        number = context.node_config["partition-id"]
        if number not in apps:
            source = lambda _, n=number: examples(plan.scenario)[n]  # noqa: E731
            apps[number] = vision.build(
                seeded(prepared.task), source, homes=SimulatedHomes(identities=home.folder / device_name(number))
            )
        return apps[number](message, context)

    with quiet_flower(), Journal() as journal:
        grid = FleetGrid(InlineFleet(app, DEVICES))
        strategy = make_strategy(plan.scenario, prepared.layout, prepared.task)
        script = None
        if plan.scenario.secure_aggregation.enabled:
            script = secure_script(
                plan.scenario,
                prepared.task,
                strategy,
                grid,
                identity=Identity(coordinator.signing_key()),
                roster=Roster(coordinator.roster.keys),
                names=lambda nodes: {node: device_name(partition_of(node)) for node in nodes},
                attempts=journal.next_attempt,
            )
        run = Coordinator(strategy, grid, journal, script=script)
        result = run.run(vector_record("model", prepared.start.weights), plan.scenario.rounds)
    return vector(result.arrays, "model", dtype="float32", max_bytes=1 << 24)


def committed(home, name):
    with store_of(home) as store, store.journal(store.find(name).id) as journal:
        last = journal.last()
    return last.record, vector(last.arrays, "model", dtype="float32", max_bytes=1 << 24)


@pytest.mark.parametrize("secure", [True, False])
def test_three_rounds_over_the_transport_are_those_of_a_fleet_in_one_process(tmp_path, secure):
    home, plan = Home(tmp_path, DEVICES), planned(small(secure_aggregation__enabled=secure))

    async def scene():
        hall = Hall(home, plan)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall, service

    hall, service = asyncio.run(scene())
    assert [event.survivors for event in hall.told(RoundFinished)] == [4, 4, 4]
    assert not hall.told(PacketRefused)
    record, weights = committed(home, plan.name)
    assert record.round == 3
    other = Home(tmp_path / "inline", DEVICES)
    np.testing.assert_array_equal(weights, inline(other, plan, tmp_path / "other"))
    result = service.results[plan.name]
    assert [entry["id"] for entry in result["devices"]] == list(home.names)
    assert result["final"]["accuracy_int8"] > 0.4
    assert all(device.ended == [service._runs[0].run_id] for device in hall.devices.values())


def test_a_task_that_is_begun_anew_is_summed_by_the_same_devices_again(tmp_path):
    """They remember which rounds they have signed: those of another run are others."""
    home, plan = Home(tmp_path, DEVICES), planned(small(rounds=1))

    async def scene(again):
        hall = Hall(home, plan, again=again)
        async with hall.service():
            for number in range(DEVICES):
                hall.join(number)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall

    for again in (False, True):
        assert [event.survivors for event in asyncio.run(scene(again)).told(RoundFinished)] == [4]


def train_in(number):
    """Silent when asked to train in this round."""
    return lambda name, body: "silent" if (body.what, body.round) == ("train", number) else None


def test_a_device_that_does_not_answer_costs_its_own_place_and_is_told(tmp_path):
    home = Home(tmp_path, DEVICES)
    plan = planned(small(rounds=2), round={"deadline_s": 15.0})

    async def scene():
        hall = Hall(home, plan)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number, trouble=train_in(1) if number == 2 else lambda name, body: None)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall, service

    hall, service = asyncio.run(scene())
    assert [event.survivors for event in hall.told(RoundFinished)] == [3, 4]
    silent = hall.devices["device-2"]
    unanswered = [body.message for body in silent.asked if (body.what, body.round) == ("train", 1)]
    assert silent.abandoned[: len(unanswered)] == unanswered
    assert [(entry["round"], entry["device"]) for entry in service.results[plan.name]["failures"]] == [(1, 2)]


def test_tasks_side_by_side_one_of_them_stopped_and_gone_on_with_and_a_device_that_comes_late(tmp_path):
    home = Home(tmp_path, 5)
    one = planned(small(rounds=2), devices=["device-0", "device-1", "device-2", "device-3"], name="one")
    other = planned(small(rounds=2, secure_aggregation__enabled=False), round={"min_devices": 5}, name="other")
    handed = []

    async def first():
        hall = Hall(home, one, other, publish=handed.append)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number)
            async with asyncio.timeout(PATIENCE_S):
                while one.name not in service.results or hall.told(WaitingForDevices, other.name)[-1].present < 4:
                    await asyncio.sleep(0.05)
        await hall.serving
        return hall, service

    hall, service = asyncio.run(first())
    assert [event.present for event in hall.told(WaitingForDevices, other.name)][-1] == 4, (
        "the other task waits for a fifth"
    )
    assert [(h.task, h.round, h.survivors) for h in handed] == [("one", 1, 4), ("one", 2, 4)]
    assert {h.scenario.hex() for h in handed} == {one.digest}
    assert [(h.last, len(h.examples), h.examples.dtype.name) for h in handed] == [
        (False, 16, "float32"),
        (True, 16, "float32"),
    ]
    assert service.results.keys() == {"one"}
    assert [event.last_round for event in hall.told(RunStopped)] == [0]

    async def second():
        hall = Hall(home, one, other, publish=handed.append)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number)
            await asyncio.sleep(0.5)
            late = hall.join(4, examples_of=0)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        assert late.offers
        return hall, service

    hall, service = asyncio.run(second())
    assert service.results.keys() == {"one", "other"}
    assert [event.survivors for event in hall.told(RoundFinished)] == [5, 5]
    assert [h.task for h in handed] == ["one", "one", "other", "other"], "what was delivered is not delivered again"


def test_a_model_that_could_not_be_delivered_is_delivered_when_the_run_goes_on(tmp_path):
    home, plan = Home(tmp_path, DEVICES), planned(small(rounds=1, secure_aggregation__enabled=False))
    handed = []

    def refuse(handover):
        raise ConfigError("the disk is full")

    async def scene(publish, plan):
        hall = Hall(home, plan, publish=publish)
        async with hall.service():
            for number in range(DEVICES):
                hall.join(number)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall

    hall = asyncio.run(scene(refuse, plan))
    assert any("disk is full" in event.text for event in hall.told(Notice))
    (home.folder / "data/runs/digits/result.json").unlink()  # as if it had been killed before the end
    asyncio.run(scene(handed.append, plan))
    assert [(h.round, h.survivors) for h in handed] == [(1, 4)]


def test_a_revoked_device_is_struck_off_while_it_is_connected(tmp_path):
    home, plan = (
        Home(tmp_path, DEVICES),
        planned(small(secure_aggregation__enabled=False, rounds=3), round={"deadline_s": 20.0}),
    )

    async def scene():
        hall = Hall(home, plan)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number)
            while not hall.told(RoundFinished):
                await asyncio.sleep(0.02)
            home.mesh.issuer.revoke("device-1", time.time())
            roster, revocations = home.mesh.issuer.lists(time.time())
            service.membership.accept(time.time(), roster=roster, revocations=revocations)
            service._housekeeping.take_over_roster()
            await hall.devices["device-1"].here()
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall

    hall = asyncio.run(scene())
    assert hall.told(RoundFinished)[-1].survivors == 3
    assert hall.mail.counts["shunned"] > 0
    assert "device-1" not in {event.device for event in hall.told(DeviceSeen)[-1:]}


def test_a_folder_of_another_scenario_is_refused(tmp_path):
    prepare(planned(small()), tmp_path / "run")
    with pytest.raises(ConfigError, match="another scenario"):
        prepare(planned(small(rounds=4)), tmp_path / "run")
    again = prepare(planned(small()), tmp_path / "run")
    assert again.task.keyed_noise_seed is None
    assert len(again.data.devices) == 0
