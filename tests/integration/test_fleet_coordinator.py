"""A coordinator over the memory carrier, with real client apps on the other side."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest
from fleet_devices import COORDINATOR, Home, StandIn, memory_broker, seeded
from small_runs import small_digits

from fedmesh.client.identities import device_name
from fedmesh.configuration.coordinator import TaskSection
from fedmesh.coordinator import Coordinator, Journal
from fedmesh.events import Event, OfTask, PacketRefused, RoundFinished
from fedmesh.federation import datasets
from fedmesh.federation.plan import make_strategy
from fedmesh.federation.securing import secure_script
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.prepared import prepare
from fedmesh.fleet.service import CoordinatorService
from fedmesh.flower import FleetGrid, InlineFleet, partition_of, quiet_flower
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.secagg import Identity, Roster
from fedmesh_clients import vision

DEVICES = 4


def small(**overrides):
    return small_digits(**{"privacy__enabled": False, "client__batching": "never", "rounds": 3, **overrides})


def planned(scenario, **tables):
    section = TaskSection.model_validate({"scenario": "small", "round": {"deadline_s": 20.0}, **tables})
    return Plan.of(section, scenario)


def examples(scenario):
    return datasets.split_as(datasets.load("digits"), scenario).devices


class Hall:
    """A coordinator and its devices on one event loop."""

    def __init__(self, home, *plans, broker=None, **options):
        self.home, self.plans, self.events = home, plans, list[Event]()
        self.broker = broker or memory_broker()
        self.pool = ThreadPoolExecutor(1)
        self.devices: dict[str, StandIn] = {}
        self.options = {"once": True, **options}
        self.tasks = []

    async def opener(self, membership):
        self.mail = self.broker.join(membership.name.id)
        return self.mail

    def join(self, number, **options):
        name = device_name(number)
        scenario = self.plans[0].scenario
        device = StandIn(
            self.home.membership(name),
            self.broker.join(name),
            examples(scenario)[number],
            number,
            DEVICES,
            self.pool,
            **options,
        )
        self.devices[name] = device
        self.tasks.append(asyncio.ensure_future(device.serve()))
        return device

    @asynccontextmanager
    async def service(self):
        service = CoordinatorService(
            self.home.config(), self.plans, events=self.events.append, opener=self.opener, **self.options
        )
        self.serving = asyncio.ensure_future(service.serve())
        try:
            yield service
        finally:
            service.stop()
            await asyncio.wait([self.serving], timeout=30)
            for device in self.devices.values():
                await device.mail.aclose()
            await asyncio.gather(*self.tasks)
            self.pool.shutdown()

    def told(self, kind):
        events = (event.event if isinstance(event, OfTask) else event for event in self.events)
        return [event for event in events if isinstance(event, kind)]


def inline(home, plan, folder):
    """What the same rounds come to with all devices in this process."""
    prepared = prepare(plan, folder)
    coordinator = home.membership(COORDINATOR)
    apps = {}

    def app(message, context):
        number = context.node_config["partition-id"]
        if number not in apps:
            source = lambda _, n=number: examples(plan.scenario)[n]  # noqa: E731
            apps[number] = vision.build(seeded(prepared.task), source, identities=home.folder / device_name(number))
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
    with Journal(home.folder / "data" / "runs" / name / "journal.sqlite3") as journal:
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
            await asyncio.wait_for(hall.serving, 60)
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
