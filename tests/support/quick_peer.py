"""A member as `fedmesh peer run` is one, but quicker, with any bytes for a model: CONFIG --json-events FILE."""

import asyncio
import functools
import os
import signal
import sys
from pathlib import Path

from fedmesh.cli.event_file import event_file
from fedmesh.fleet.state_folder import state_of
from fedmesh.mesh.discovery import Settings as DiscoverySettings
from fedmesh.mesh.membership import Settings as MembershipSettings
from fedmesh.mesh.swarm import Settings as SwarmSettings
from fedmesh.peer.node import Node, Settings
from fedmesh.peer.offering import Offering
from fedmesh.peer.running import load

COMMAND = (sys.executable, str(Path(__file__).absolute()))
MEMBERSHIP = MembershipSettings(probe_s=0.5, probe_timeout_s=0.2, gossip_s=0.1, reconnect_s=1.0, sync_s=5.0)
"""Half a period of the defaults; a suspicion lasts 2.5 to 15 s."""


def quick() -> Settings:
    return Settings(
        membership=MEMBERSHIP,
        discovery=DiscoverySettings(gap_s=0.5, longest_s=2.0, every_s=0.2),
        swarm=SwarmSettings(looks_s=0.2, announce_s=2.0, interest_s=1.0, request_s=10.0, snub_s=5.0),
        reconnect_s=0.1,
        reconnect_max_s=1.0,
        quiet_s=3.0,
    )


async def main(config: Path, events: Path) -> None:
    peer = load(config)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    offering = functools.partial(Offering, probe=lambda _path, _manifest: None)
    with state_of(peer.config.mesh.folder), event_file(events) as record:
        settings = None if os.environ.get("REAL") else quick()
        async with Node(peer.config, peer.membership, settings=settings, offering=offering, events=record) as node:
            running = [asyncio.ensure_future(job) for job in (node.run(), over.wait())]
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for job in running:
                job.cancel()
            for job in done:
                job.result()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[3])))
