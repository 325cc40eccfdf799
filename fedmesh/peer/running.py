"""``fedmesh peer run``: a node from its configuration, until it is told to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fedmesh.configuration import PeerConfig
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, ignore
from fedmesh.fleet.state_folder import state_of
from fedmesh.identity import Membership
from fedmesh.peer.learning import Learning
from fedmesh.peer.node import Node

__all__ = ["load", "run"]

_log = logging.getLogger(__name__)


def load(path: Path) -> tuple[PeerConfig, Membership]:
    """The configuration in a file, and who it is about.

    Raises:
        ConfigError: the file says something wrong, or nobody is enrolled in the folder that it names.
    """
    config = PeerConfig.load(path.absolute())
    return config, Membership(config.identity.folder)


async def run(
    config: PeerConfig,
    membership: Membership,
    *,
    beside: Callable[[Node], Coroutine[Any, Any, None]] | None = None,
    learning: Callable[..., Learning] | None = None,
    events: EventSink = ignore,
) -> None:
    """Runs the node until SIGTERM or SIGINT.

    Args:
        beside: runs as long as the node does. learning: makes what trains, see `Node`.
        events: told what happens.

    Raises:
        ConfigError: another process has the folder, or a file in it cannot be used; it cannot listen.
    """
    if membership.expired(time.time()):
        raise ConfigError(f"the certificate of {membership.name.id!r} has expired: enrol anew with fedmesh enroll")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with state_of(config.mesh.folder):
        async with Node(config, membership, learning=learning, events=events) as node:
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
