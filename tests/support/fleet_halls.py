"""A coordinator over the memory carrier in the test's own process, with stand-ins for devices."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fleet_devices import Home, StandIn, memory_broker
from small_runs import small_digits

from fedmesh.client.identities import device_name
from fedmesh.configuration.coordinator import TaskSection
from fedmesh.coordinator import RunStore
from fedmesh.events import Event, OfTask
from fedmesh.federation import datasets
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.service import CoordinatorService

__all__ = ["DEVICES", "PATIENCE_S", "Hall", "examples", "planned", "small", "store_of"]

DEVICES = 4
PATIENCE_S = 400
"""On a machine that does much else besides."""


def small(**overrides):
    return small_digits(**{"privacy__enabled": False, "client__batching": "never", "rounds": 3, **overrides})


def planned(scenario, **tables):
    section = TaskSection.model_validate({"scenario": "small", "round": {"deadline_s": 120.0}, **tables})
    return Plan.of(section, scenario)


def examples(scenario):
    return datasets.split_as(datasets.load("digits"), scenario).devices


class Hall:
    """A coordinator and its devices on one event loop.

    holds: whether the run waits for `go_on` when it hands over the model of a round, so that it is no further than a
        test thinks; `handed`: what it handed over.
    """

    def __init__(self, home, *plans, broker=None, holds=False, **options):
        self.home: Home = home
        self.handed, self._go_on = [], threading.Event()
        self.plans, self.events = plans, list[Event]()
        self.broker = broker or memory_broker()
        self.pool = ThreadPoolExecutor(1)
        self.devices: dict[str, StandIn] = {}
        self.options = {"once": True, **({"publish": self._hold} if holds else {}), **options}
        self.tasks = []

    def _hold(self, handover):
        """In the run's thread, which keeps nobody else waiting there: who tells an event does."""
        self.handed.append(handover)
        assert self._go_on.wait(PATIENCE_S)

    def go_on(self):
        """Nothing is held any more."""
        self._go_on.set()

    async def opener(self, membership):
        self.mail = self.broker.join(membership.name.id, coordinator=True)
        return self.mail

    def join(self, number, *, examples_of=None, **options):
        name = device_name(number)
        scenario = self.plans[0].scenario
        device = StandIn(
            self.home.membership(name),
            self.broker.join(name),
            examples(scenario)[number if examples_of is None else examples_of],
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
            self.go_on()
            service.stop()
            await asyncio.wait([self.serving], timeout=120)
            for device in self.devices.values():
                await device.mail.aclose()
            await asyncio.gather(*self.tasks)
            self.pool.shutdown()

    def told(self, kind, task=None):
        """Of all tasks, or of one."""
        mine = [event for event in self.events if task is None or (isinstance(event, OfTask) and event.task == task)]
        events = (event.event if isinstance(event, OfTask) else event for event in mine)
        return [event for event in events if isinstance(event, kind)]


def store_of(home):
    """The store of runs of its coordinator."""
    return RunStore(home.config().journal_url, create=False)
