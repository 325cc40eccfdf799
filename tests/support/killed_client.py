"""The lite client app, which notes every training, and in which the agent is killed at ``FEDMESH_TEST_KILL``."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmesh.client.assignment import Assignment, Trained
from fedmesh.client.lite import LiteTrainer
from fedmesh_clients.training import TrainingApp


def reached(step: str) -> None:
    """Kills the agent at the step that is asked for; this process goes with it."""
    if os.environ.get("FEDMESH_TEST_KILL") == step:
        Path(f"{os.environ['FEDMESH_TEST_TRAININGS']}.pid").write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)


class KillingHomes:
    def __init__(self, homes: Any) -> None:
        self._homes = homes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._homes, name)

    @contextmanager
    def ledger(self, *arguments: Any) -> Iterator["KillingLedger"]:
        with self._homes.ledger(*arguments) as ledger:
            yield KillingLedger(ledger)


class KillingLedger:
    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def charge(self, event: Any, *, release_id: str | None = None) -> None:
        self._ledger.charge(event, release_id=release_id)
        reached("charged")


class KillingTrainer(LiteTrainer):
    def train(self, assignment: Assignment, *arguments: Any, **options: Any) -> Trained:
        with Path(os.environ["FEDMESH_TEST_TRAININGS"]).open("a") as file:
            file.write(f"{assignment.round}\n")
        trained = super().train(assignment, *arguments, **options)
        reached("trained")
        return trained


def build(task: Any, data: Any, *, homes: Any) -> TrainingApp:
    return TrainingApp(task, data, homes=KillingHomes(homes), trainer=KillingTrainer(task))
