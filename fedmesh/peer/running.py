"""``fedmesh peer run``: a node from its configuration, until it is told to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmesh.configuration import PeerConfig
from fedmesh.configuration.section import read_tables
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, ignore
from fedmesh.fleet.state_folder import state_of
from fedmesh.identity import Membership
from fedmesh.peer.learning import Learning
from fedmesh.peer.node import Node

__all__ = ["Peer", "learning_of", "load", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who runs here, by its configuration; `tables` in `folder` are what that was read from."""

    config: PeerConfig
    tables: dict[str, Any]
    folder: Path
    membership: Membership


def load(path: Path) -> Peer:
    """The member that a configuration file describes.

    Raises:
        ConfigError: the file says something wrong, or nobody is enrolled in the folder that it names.
    """
    tables, folder = read_tables(path), path.absolute().parent
    config = PeerConfig.parse(tables, source=str(path), folder=folder)
    return Peer(config, tables, folder, Membership(config.identity.folder))


def learning_of(peer: Peer) -> Callable[..., Learning] | None:
    """What makes a node train; None: it has no data, and votes only. Imported where it is wanted: it takes memory."""
    if peer.config.data is None:
        return None

    def made(config: PeerConfig, membership: Membership, *, clock: Callable[[], float], events: EventSink) -> Learning:  # noqa: ARG001
        from fedmesh.peer.learner import Learner

        return Learner(config, membership, tables=peer.tables, folder=peer.folder, events=events)

    return made


async def run(
    peer: Peer,
    *,
    beside: Callable[[Node], Coroutine[Any, Any, None]] | None = None,
    learning: Callable[..., Learning] | None = None,
    events: EventSink = ignore,
) -> None:
    """Runs the node until SIGTERM or SIGINT.

    Args:
        peer: who. beside: runs as long as the node does.
        learning: makes what trains, see `Node`; None: as the configuration says.
        events: told what happens.

    Raises:
        ConfigError: another process has the folder, or a file in it cannot be used; it cannot listen.
    """
    config, membership = peer.config, peer.membership
    if membership.expired(time.time()):
        raise ConfigError(f"the certificate of {membership.name.id!r} has expired: enrol anew with fedmesh enroll")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with state_of(config.mesh.folder):
        async with Node(config, membership, learning=learning or learning_of(peer), events=events) as node:
            _log.info("%s listens at %s", membership.name, node.transport.listening)
            jobs = [node.run(), stop.wait(), *([] if beside is None else [beside(node)])]
            tasks = [asyncio.ensure_future(job) for job in jobs]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()  # a part that failed ends the node
