"""What a ledger says, read without holding or changing it: for whoever looks, never for whoever charges.

A device that charges at the same time is not disturbed; its entry is then in the statement or not.
"""

from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy.accountant import epsilon, has_pld
from fedmesh.privacy.chain import Chain, Head, check_contains
from fedmesh.privacy.entries import Charge, Settlement, TaskBudget
from fedmesh.privacy.ledger_file import read_ledger
from fedmesh.privacy.tally import Spending, Tally, task_of
from fedmesh.types import PrivacyEvent

__all__ = ["Account", "Row", "Statement"]


@dataclass(frozen=True, slots=True)
class Row:
    """Entry `number`, and epsilon by RDP of all up to it, at the device's delta; None: it cannot be accounted for."""

    number: int
    entry: Charge | TaskBudget | Settlement
    spent: float | None


@dataclass(frozen=True, slots=True)
class Account:
    """What was spent of a budget.

    Attributes:
        name: the task's; empty for the whole device.
        charges: number of charges.
        budget: epsilon that may be spent, at `delta`; None: the ledger keeps no budget of this task.
        delta: the task's, or the device's where the task has none of its own.
        rdp: epsilon spent, as the budget counts it; None: an event cannot be accounted for.
        pld: epsilon spent, as it is reported; None: an event has no privacy loss distribution, or dp-accounting is not
            installed.
    """

    name: str
    charges: int
    budget: float | None
    delta: float
    rdp: float | None
    pld: float | None

    @property
    def left(self) -> float | None:
        """What is left of the budget, by RDP: more rounds than that number suggests may fit."""
        return None if self.budget is None or self.rdp is None else max(0.0, self.budget - self.rdp)

    @property
    def reported(self) -> float | None:
        """Epsilon spent: the smaller of the two upper bounds."""
        return self.rdp if self.pld is None or self.rdp is None else min(self.pld, self.rdp)


class Statement:
    """The ledger at `path`.

    Attributes:
        path: the file.
        opening: entry 0.
        torn_bytes: bytes of an interrupted write at the end, which the next opening will cut off.

    Raises:
        ConfigError: it cannot be read.
        LedgerError: it is damaged, or holds no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opening, self._chain, self.torn_bytes = read_ledger(path)
        self._tally = Tally()
        for number, entry in enumerate(self._chain.entries, start=1):
            self._tally.enter(number, entry)

    @property
    def entries(self) -> int:
        """Number of entries, the opening included."""
        return len(self._chain.heads)

    @property
    def digest(self) -> str:
        """The last entry's hash in hex."""
        return self._chain.heads[-1].digest

    def rows(self) -> list[Row]:
        """All entries but the opening, first to last."""
        return list(_rows(self._chain, self.opening.delta))

    def affords(self, event: PrivacyEvent, *, within: TaskBudget) -> bool:
        """Whether `event` would be covered by the device's budget and by the task's, which is `within`."""
        known = self._tally.budgets.get(within.name)
        budgets = ((self._tally.whole, self.opening), (self._tally.task(within.name), within))
        return known in {None, within} and all(
            spending.epsilon(budget.delta, event) <= budget.epsilon for spending, budget in budgets
        )

    def whole(self) -> Account:
        """The device's account."""
        count = len(self._tally.charges)
        return _account("", count, self._tally.whole, self.opening.epsilon, self.opening.delta)

    def tasks(self) -> list[Account]:
        """An account for each task, by name."""
        counts = dict.fromkeys(self._tally.budgets, 0)
        for charge in self._tally.charges.values():
            counts[task_of(charge.event)] = counts.get(task_of(charge.event), 0) + 1
        accounts = []
        for name, count in sorted(counts.items()):
            budget = self._tally.budgets.get(name)
            limit, delta = (None, self.opening.delta) if budget is None else (budget.epsilon, budget.delta)
            accounts.append(_account(name, count, self._tally.task(name), limit, delta))
        return accounts

    def check_contains(self, head: Head | None) -> None:
        """Raises: LedgerError: the ledger does not contain `head`, which an anchor remembered before it was read."""
        if head is not None:
            check_contains(self._chain.heads, head)

    def check_budgets(self) -> None:
        """Raises: LedgerError: more was spent than a budget allows, or what was spent cannot be accounted for."""
        for account in [self.whole(), *self.tasks()]:
            name = f"task {account.name!r}" if account.name else "the device"
            if account.rdp is None:
                raise LedgerError(
                    f"what {name} spent cannot be accounted for: {self.path} has events of unknown mechanisms, or "
                    "with parameters that mean nothing"
                )
            if account.budget is not None and account.rdp > account.budget:
                raise LedgerError(
                    f"{self.path} says that {name} spent epsilon {account.rdp:.4g} of {account.budget:g}: no ledger "
                    "lets that happen, so it was written by something else"
                )


def _rows(chain: Chain, delta: float) -> list[Row]:
    tally, rows = Tally(), []
    for number, entry in enumerate(chain.entries, start=1):
        tally.enter(number, entry)
        rows.append(Row(number, entry, _by_rdp(tally.whole, delta)))
    return rows


def _account(name: str, charges: int, spending: Spending, budget: float | None, delta: float) -> Account:
    return Account(name, charges, budget, delta, _by_rdp(spending, delta), _by_pld(spending, delta))


def _by_rdp(spending: Spending, delta: float) -> float | None:
    try:
        return spending.epsilon(delta)
    except ConfigError:
        return None


def _by_pld(spending: Spending, delta: float) -> float | None:
    events = spending.events()
    try:
        return epsilon(events, delta, "pld") if has_pld(events) else None
    except (ConfigError, ImportError):
        return None
