"""``fedmesh client run``: a device from its configuration, over MQTT, until it is told to stop."""

import asyncio
import logging
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh.client.journal import DeviceJournal
from fedmesh.client.policy import budgets_of
from fedmesh.configuration import ClientConfig
from fedmesh.configuration.section import read_tables
from fedmesh.errors import ConfigError, PeerError
from fedmesh.events import EventSink, ignore
from fedmesh.fleet.agent import Agent, Beside, Device
from fedmesh.fleet.freshness import keep_fresh
from fedmesh.fleet.state_folder import LOCK, state_of
from fedmesh.identity import Membership
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.limits import Limits
from fedmesh.transport.lists import ListsFollower
from fedmesh.transport.mqtt import MqttTransport, options_from

if TYPE_CHECKING:
    from fedmesh.observability import Observer
    from fedmesh.transport.courier import Courier

__all__ = ["JOURNAL", "LOCK", "load", "run", "state_of"]

JOURNAL = "agent.sqlite3"
"""Beside ``NAME.sqlite`` of secure aggregation, whatever the device is called."""
_SPOOL = "spool"
_PATIENCE_S = 3.0

_log = logging.getLogger(__name__)


def load(path: Path) -> Device:
    """The device that a configuration file describes.

    Raises:
        ConfigError: the file says something wrong, or nobody is enrolled in the folder that it names.
    """
    tables, folder = read_tables(path), path.absolute().parent
    config = ClientConfig.parse(tables, source=str(path), folder=folder)
    return Device(config, tables, folder, Membership(config.identity.folder))


async def run(
    device: Device,
    *,
    once: bool = False,
    beside: Sequence[Beside] = (),
    events: EventSink = ignore,
    observer: "Observer | None" = None,
) -> None:
    """Runs the agent until SIGTERM or SIGINT; with `once`, until the first run that it takes part in is over.

    With ``[registry]`` the models that are announced are installed, with ``[inference] listen`` they answer.

    Args:
        device: what it is.
        beside: runs as long as the agent does.
        events: told what happens.
        observer: gets counters and probes of models and inference.

    Raises:
        ConfigError: another agent has the state folder, or a file in it cannot be used.
        TrustError: the broker is not the one that was named.
    """
    config, membership = device.config, device.membership
    if membership.expired(time.time()):
        raise ConfigError(f"the certificate of {membership.name.id!r} has expired: enrol anew with fedmesh enroll")
    with state_of(config.state.folder) as state:
        if config.tier != "inference":
            from fedmesh.client.budgets import check_budgets

            check_budgets(state, membership.name.id, budgets_of(config))
        journal = DeviceJournal(state / JOURNAL)
        broker = options_from(membership, config.broker.host, config.broker.port, coordinator=False)
        limits = Limits(message_bytes=config.limits.message_mb << 20)
        try:
            async with (
                await MqttTransport.open(broker, limits=limits, spool=state / _SPOOL) as carrier,
                RemoteFiles(carrier.channel("files"), config.coordinators[0]) as files,
                ListsFollower(carrier, membership, files) as lists,
            ):

                async def upkeep(agent: Agent) -> None:
                    await keep_fresh(membership, config.issuer.address, changed=agent.changed, events=events)

                async def connection(_: Agent) -> None:
                    try:
                        await carrier.wait_connected(_PATIENCE_S)
                    except PeerError as error:
                        _log.warning("%s. Trying again and again", error)
                        await carrier.wait_connected(math.inf)  # raises what trying again would not help against
                    _log.info("connected to the broker at %s:%d", config.broker.host, config.broker.port)
                    await asyncio.Event().wait()

                jobs: list[Beside] = [upkeep, connection, *beside]
                if config.registry is not None:
                    jobs.append(_deliveries(device, carrier, files, events, observer))
                agent = Agent(device, carrier, journal, beside=jobs, events=events)
                lists.on_announced = agent.changed
                if observer is not None:
                    observer.metrics.refusals.watch("fleet", lambda: agent.office.refused)
                    observer.metrics.refusals.watch("lists", lambda: lists.refused)
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, agent.stop)
                _log.info("%s runs, tier %s, for %s", membership.name, config.tier, ", ".join(config.coordinators))
                await agent.run(once=once)
        finally:
            journal.close()


def _deliveries(
    device: Device, carrier: "Courier", files: RemoteFiles, events: EventSink, observer: "Observer | None"
) -> Beside:
    from fedmesh.fleet.receiving import Receiver

    registry = None if observer is None else observer.metrics.registry
    receiver = Receiver(device.config, device.membership, carrier, files=files, registry=registry, events=events)
    if observer is not None:
        observer.metrics.refusals.watch("registry", lambda: receiver.refused)
        observer.metrics.refusals.watch("files", lambda: receiver.strange)
        if device.config.inference is not None and device.config.inference.listen is not None:
            observer.health.alive["inference"] = receiver.fault
            observer.health.ready["inference"] = receiver.unready
    return receiver.run
