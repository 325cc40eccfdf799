"""The home of one enrolled device: its keys and roster as ``fedmesh enroll`` made them, its ledgers and memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedmesh.client.budgets import LEDGERS, device_ledger_path
from fedmesh.client.enrolling import pinned_roster
from fedmesh.client.home import Member
from fedmesh.client.identities import anchor_path, store_path
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.identity import Membership
from fedmesh.privacy import Anchor, FileLedger
from fedmesh.privacy.entries import TaskBudget
from fedmesh.privacy.settings import Budget, Level
from fedmesh.privacy.statement import Statement
from fedmesh.privacy.summed import SumSettings
from fedmesh.secagg import Identity, Policy
from fedmesh.types import Ledger

__all__ = ["EnrolledHome"]


class EnrolledHome:
    """One enrolled device; whatever number its Context has, it is this one.

    Args:
        identity: folder that ``fedmesh enroll`` made.
        state: folder in which the device remembers: ``ledgers/`` and the store of secure aggregation.
        budgets: the device's whole budgets, which all tasks share.
        floor: see `Homes`; it should name the run's coordinator as `Policy.aggregator`.

    Raises:
        ConfigError: nobody is enrolled there, or the folder is damaged.
    """

    simulated = False

    def __init__(
        self, identity: Path, state: Path, *, budgets: Mapping[Level, Budget], floor: Policy | None = None
    ) -> None:
        self.floor = floor
        self._folder, self._state, self._budgets = identity, state, dict(budgets)
        self._seen: object = None
        self._member = self._read()

    def check(self, name: str, *, private: bool, secure: bool) -> None:
        """As `Homes`: everything is kept here."""

    def member(self, device: int) -> Member:  # noqa: ARG002
        """As `Homes`; the roster is read anew when it has changed."""
        if self._changed() != self._seen:
            self._member = self._read()
        return self._member

    @contextmanager
    def ledger(self, device: int, task: str, budget: Budget) -> Iterator[Ledger]:  # noqa: ARG002
        """As `Homes`: the device's ledger of the level, and in it the task's budget.

        Raises:
            ConfigError: also if the task had another budget before.
        """
        whole = self._budgets[budget.level]
        with self.whole_ledger(whole) as ledger:
            yield ledger.for_task(task, epsilon=budget.epsilon, delta=budget.delta)

    def affords(self, task: Task) -> bool:
        """Whether one more round of a task fits into the device's budget and the task's; nothing is held or written.

        Raises:
            LedgerError: the ledger or its anchor is damaged, missing or rolled back.
            ConfigError: the ledger cannot be read.
        """
        settings, budget = task.summed or task.dp, task.budget
        if settings is None or budget is None:
            return True
        whole, path = self._budgets[budget.level], self.ledger_path(budget.level)
        head = Anchor(anchor_path(self._folder, self._member.name)).heads().get(budget.level)  # before the ledger
        if head is None and not path.exists():
            return budget.epsilon <= whole.epsilon
        statement = Statement(path)
        statement.check_contains(head)
        label = f"{task.name}/round"
        events = settings.events(label) if isinstance(settings, SumSettings) else (settings.event(label),)
        within = TaskBudget(task.name, budget.epsilon, budget.delta)
        return all(statement.affords(event, within=within) for event in events)

    def whole_ledger(self, whole: Budget) -> FileLedger:
        """The device's ledger of a level, opened. Raises: as `ledger`."""
        name = self._member.name
        path = self.ledger_path(whole.level)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        anchor = Anchor(anchor_path(self._folder, name))
        return FileLedger(path, epsilon=whole.epsilon, delta=whole.delta, level=whole.level, anchor=anchor)

    def ledger_path(self, level: Level) -> Path:
        """Where the device's ledger of a level is."""
        return device_ledger_path(self._state / LEDGERS, self._member.name, level)

    def _changed(self) -> object:
        status = (self._folder / "roster.signed").stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> Member:
        try:
            self._seen = self._changed()  # before it is read: what is written meanwhile is read again
        except OSError as error:
            raise ConfigError(f"nobody is enrolled in {self._folder}: run fedmesh enroll") from error
        membership = Membership(self._folder)
        identity = Identity(membership.signing_key())
        return Member(
            membership.name.id, identity, pinned_roster(membership), store_path(self._state, membership.name.id)
        )
