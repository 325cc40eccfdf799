"""What is offered to a device: the run, its task as the device would run it, and the features that it is about."""

from collections.abc import Sequence
from pathlib import Path

from fedmesh.client.task import Task
from fedmesh.federation import featuring
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.protocol import Here, Offer
from fedmesh.identity.packets import Buffer
from fedmesh.wire import dumps

__all__ = ["Offers", "client_for"]

LITE = "lite"


def client_for(wanted: str, here: Here, *, lite: bool) -> str | None:
    """The client app for a device that is so; None: it has none that could do it.

    Args:
        wanted: by the scenario. here: the device's word.
        lite: whether lite devices take part in what full ones do with another app.
    """
    if here.tier == "full":
        client = wanted
    elif here.tier == "lite" and (lite or wanted == LITE):
        client = LITE
    else:
        return None
    return client if client in here.clients else None


class Offers:
    """Of one run.

    Args:
        run: its id. plan: what it is. task: without a seed. folder: its directory, where a feature map may be.
    """

    def __init__(self, run: int, plan: Plan, task: Task, folder: Path) -> None:
        self._run, self._plan = run, plan
        path = folder / featuring.FILE
        self._parts = (dumps(task.to_plain()), path.read_bytes() if plan.scenario.features.name else b"")
        self._digest, self._lite = plan.digest, task.head is not None

    def __call__(self, name: str, here: Here) -> tuple[Offer, Sequence[Buffer]] | None:
        """What to offer to the device `name`; None: it is not asked, or has no client app for the run."""
        scenario = self._plan.scenario
        client = client_for(scenario.client.name, here, lite=self._lite) if self._plan.asks(name) else None
        if client is None:
            return None
        return Offer(self._run, scenario.name, self._digest, scenario.rounds, client), self._parts
