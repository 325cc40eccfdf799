"""A device's agent that ends itself by SIGKILL at a step: ``killed_agent.py CONFIG CARRIER [STEP]``."""

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from folder_carrier import FolderCarrier

from fedmesh import events
from fedmesh.client.eligibility import Facts
from fedmesh.client.journal import DeviceJournal
from fedmesh.files import write_atomically
from fedmesh.fleet.agent import Agent
from fedmesh.fleet.device import JOURNAL, load
from fedmesh.fleet.readiness import Readiness

STEPS = {
    "accepted": events.OfferAnswered,
    "begun": events.TrainingBegun,
    "kept": events.ReplyKept,
    "posted": events.ReplyPosted,
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(config: Path, folder: Path, step: str) -> None:
    device = load(config)
    state = device.config.state.folder
    state.mkdir(mode=0o700, exist_ok=True)
    journal = DeviceJournal(state / JOURNAL)

    def facts(_local: datetime, _hook: bool | None) -> Facts:
        if step == "received" and any(journal.outstanding(kept.run) for kept in journal.runs()):
            kill()
        return Facts(datetime.now(UTC))

    def told(event: events.Event) -> None:
        if step == "report" and isinstance(event, events.ReplyPosted):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found = {"modules": sorted(sys.modules), "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}
            write_atomically(folder / "report.json", json.dumps(found).encode())
        if step in STEPS and isinstance(event, STEPS[step]):
            kill()

    carrier = FolderCarrier(folder, device.membership.name.id)
    ready = Readiness(device.config.eligibility, facts=facts)
    await Agent(device, carrier, journal, readiness=ready, events=told).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
