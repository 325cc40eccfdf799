"""A device's record of privacy spent: durable before the step that it pays for. docs/ledger.md has the schema.

Guarantees: when `FileLedger.charge` returns, the entry is on the disk; when it raises, the step must not be taken, and
a charge over the budget always raises. A crash between the two is charged. An entry that was being written is cut off,
for its charge never returned. An edit of the file is found when it is opened, and, while it is open, at the next
charge; with an `Anchor`, so is a ledger that was rolled back, replaced or removed. One process at a time holds it.

Does not guarantee: without an anchor, whoever can write the file can replace it by an older or an empty one. With one,
whoever puts back both together. Keep `FileLedger.head` where neither is, and pass it as `known`.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.privacy import renyi
from fedmesh.privacy.anchor import Anchor
from fedmesh.privacy.chain import Chain, Head, entry_line, opening_line, parse
from fedmesh.privacy.durable import DurableFile
from fedmesh.privacy.entries import FORMAT_1, Charge, Entry, Opening, Settlement, TaskBudget, check_budget
from fedmesh.privacy.settings import Level
from fedmesh.privacy.tally import Spending, Tally, task_of
from fedmesh.types import PrivacyEvent

__all__ = ["FileLedger", "TaskLedger", "release_id"]


def release_id(*parts: str | int | bytes) -> str:
    """Names a release: 32 hex digits of SHA-256 over `parts`.

    Name all that it is computed from: task, round, device and the bytes of the start weights. The same id then means
    the same output, which costs nothing to send twice, and it gives `KeyedNoise` a key that no other release has.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode() + data)
    return digest.hexdigest()[:32]


class FileLedger:
    """An append-only ledger in a file; a context manager that holds the file.

    Opening verifies all of it, or creates it with the budget given. Open it for a round and close it after: another
    process may serve the device next. One ledger serves all tasks of a device on one level; the two levels have a file
    each, and what they say is never added.

    Args:
        path: the file; its directory must exist.
        epsilon, delta: the device's whole budget; the one that the ledger was created with.
        level: whom the promise is made to; the one that the ledger was created with.
        known: a head kept elsewhere; the ledger must contain it.
        anchor: kept with the device's identity: the ledger must contain what it remembers.

    Raises:
        ConfigError: the budget means nothing, or budget or level are not the ledger's.
        LedgerError: damaged, rolled back, missing though the anchor knows of it, held by another process, or not
            writable; or the anchor is missing or damaged.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        epsilon: float,
        delta: float,
        level: Level = "example",
        known: Head | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        check_budget(epsilon, delta)
        self._path = Path(path)
        self._opening = Opening(float(epsilon), float(delta), level)
        self._anchor = anchor
        self._tally = Tally()
        self._check_there()
        self._file = DurableFile(self._path)
        try:
            self._head = self._load([] if known is None else [known])
            self._anchor_head()
        except BaseException:
            self._file.close()
            raise

    @property
    def head(self) -> Head:
        """Where the ledger ends now."""
        return self._head

    @property
    def level(self) -> Level:
        """Whom its promise is made to."""
        return self._opening.level

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that was charged, first to last, as it was entered."""
        return tuple(self._tally.charges.values())

    @property
    def last_charge(self) -> int | None:
        """Number of the last charge's entry: what `settle` takes. None: nothing was charged."""
        return next(reversed(self._tally.charges), None)

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None, within: TaskBudget | None = None) -> None:
        """Enters `event`; it is on the disk when this returns.

        Args:
            event: what is about to be spent, e.g. all steps of a round. Its label names the task and the round.
            release_id: only with noise that the same id repeats (`KeyedNoise`): a release that is in the ledger already
                is the same output again and costs nothing. None, with noise from the system: always charged.
            within: a task's budget, which must cover it as well; one that the ledger keeps does so in any case.

        Raises:
            BudgetError: a budget does not cover it; nothing was written.
            LedgerError: it cannot be made durable, or the id stands for another event. Do not take the step.
            ConfigError: it cannot be accounted for, or its label is another task's than `within`.
        """
        if release_id is not None and release_id in self._tally.releases:
            self._repeat(release_id, event)
            return
        self._check_budgets(event, within)
        self._append(Charge(event, release_id))

    def settle(self, entry: int, event: PrivacyEvent) -> None:
        """Enters what a charge cost in truth: `event`, once it is known; on the disk when this returns.

        For sums whose noise was sized for the fewest inputs that may be in them, and that had more. Give the number
        that this device has verified (the signed list of the survivors), less the colluders that are assumed: a server
        could claim any.

        Args:
            entry: number of the charge's entry (`last_charge` after it was entered).
            event: of the same mechanism and count, with no parameter that costs more; its label is not kept.

        Raises:
            ConfigError: it costs more than was charged, cannot be accounted for, or the ledger's format has no
                settlements.
            LedgerError: the entry is no charge or was settled before, or this cannot be made durable.
        """
        if self._opening.format == FORMAT_1:
            raise ConfigError(f"the privacy ledger {self._path} has format {FORMAT_1!r}, which has no settlements")
        if entry not in self._tally.charges or entry in self._tally.settled:
            what = "was settled before" if entry in self._tally.settled else "is no charge"
            raise LedgerError(f"entry {entry} of the privacy ledger {self._path} cannot be settled: it {what}")
        settlement = Settlement(entry, event)
        why = self._tally.refusal(settlement)
        if why is not None:
            raise ConfigError(f"entry {entry} of the privacy ledger {self._path} cannot be settled: the event {why}")
        renyi.curve(renyi.key(event))  # what nobody can account for would stay in the ledger for good
        self._append(settlement)

    def for_task(self, name: str, *, epsilon: float, delta: float) -> "TaskLedger":
        """The ledger as one task sees it, under a budget of its own besides the device's.

        The first call for a name enters its budget, which cannot be changed later. A ledger of format 1 cannot keep
        it: there it holds as long as the caller gives the same one.

        Raises:
            ConfigError: the name has a slash, or the budget means nothing, is not the task's, or is less than what was
                charged under this name before.
            LedgerError: it cannot be entered.
        """
        budget = TaskBudget(name, float(epsilon), float(delta))
        known = self._tally.budgets.get(name)
        if known is None and self._opening.format != FORMAT_1:
            now = self._tally.task(name).epsilon(budget.delta)
            if now > budget.epsilon:
                raise ConfigError(
                    f"task {name!r} has spent epsilon {now:.4g} at delta {budget.delta:g} in the privacy ledger "
                    f"{self._path}, and a budget of {budget.epsilon:g} is asked for: state at least what was spent"
                )
            self._append(budget)
        elif known is not None and known != budget:
            raise ConfigError(
                f"task {name!r} has a budget of epsilon {known.epsilon} at delta {known.delta} in the privacy ledger "
                f"{self._path}, now epsilon {budget.epsilon} at delta {budget.delta} is asked for: a budget is not "
                "changed on the way; ask for the first one again, or name another task"
            )
        return TaskLedger(self, budget)

    def epsilon(self, delta: float | None = None, *, task: str | None = None) -> float:
        """Epsilon spent so far, at `delta` or else at the budget's, by the whole device or by one task.

        By PLD where every event has one, else by RDP.

        Raises:
            TrustError: the accountants contradict each other.
        """
        from fedmesh.privacy.accountant import spent

        spending = self._tally.whole if task is None else self._tally.task(task)
        return spent(spending.events(), self._opening.delta if delta is None else delta)

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FileLedger({str(self._path)!r}, entries={self._head.entries})"

    def _check_there(self) -> None:
        known = self._anchor.heads().get(self._opening.level) if self._anchor else None
        if known is not None and not os.path.lexists(self._path):
            raise LedgerError(
                f"the privacy ledger {self._path} is missing, and the anchor {self._anchor!r} knows {known.entries} "
                "entries of it: put it back. Without it this device would spend its budget a second time, and it must "
                "not train"
            )

    def _load(self, known: list[Head]) -> Head:
        if self._anchor is not None and (anchored := self._anchor.heads().get(self._opening.level)):
            known = [*known, anchored]  # read again, now that nobody else can charge
        data = self._file.read()
        chain = parse(data, known=known)
        if not chain.heads:
            return self._create(data)
        self._check_same_opening(chain)
        for number, entry in enumerate(chain.entries, start=1):
            self._tally.enter(number, entry)
        if chain.size < len(data):
            self._file.cut(chain.size)
        return chain.heads[-1]

    def _create(self, data: bytes) -> Head:
        line, head = opening_line(self._opening)
        old, _ = opening_line(Opening(self._opening.epsilon, self._opening.delta, format=FORMAT_1))
        if not (_is_unborn(data, line) or (self.level == "example" and _is_unborn(data, old))):
            raise LedgerError(
                f"{self._path} is not a privacy ledger, or its first entry is damaged: restore it from a copy, or name "
                "another file"
            )
        self._file.cut(0)
        self._file.append(line)
        self._file.sync_directory()
        return head

    def _append(self, entry: Entry) -> None:
        line, head = entry_line(entry, self._head)
        self._file.append(line)
        self._tally.enter(self._head.entries, entry)
        self._head = head
        try:
            self._anchor_head()
        except LedgerError:
            self._file.close()  # charged and not anchored: opening it again makes up for that, or fails as well
            raise

    def _anchor_head(self) -> None:
        if self._anchor is not None:
            self._anchor.advance(self._opening.level, self._head)

    def _repeat(self, release_id: str, event: PrivacyEvent) -> None:
        """The same release again: free, but if it was settled, for now it may be in a sum of fewer survivors."""
        number = self._tally.releases[release_id]
        charged = self._tally.charges[number].event
        if charged != event:
            raise LedgerError(
                f"release {release_id} was charged for another event: the same noise under other parameters cancels "
                "out; name every release by all that it is computed from"
            )
        cost = self._tally.cost(number)
        if cost == charged:
            return
        for spending, budget in self._budgets(task_of(charged)):
            after = spending.epsilon_with(cost, charged, budget.delta)
            if after > budget.epsilon:
                raise BudgetError(_over(budget, spending.epsilon(budget.delta), after, event))
        self._append(Settlement(number, charged))

    def _budgets(self, task: str) -> list[tuple[Spending, Opening | TaskBudget]]:
        """Every budget that a charge of `task` counts against, as far as the ledger knows them."""
        whole: list[tuple[Spending, Opening | TaskBudget]] = [(self._tally.whole, self._opening)]
        known = self._tally.budgets.get(task)
        return whole if known is None else [*whole, (self._tally.task(task), known)]

    def _check_budgets(self, event: PrivacyEvent, within: TaskBudget | None) -> None:
        if within is not None and task_of(event) != within.name:
            raise ConfigError(
                f"a charge labelled {event.label!r} was made on task {within.name!r}: label it {within.name}/round-3"
            )
        budgets = self._budgets(task_of(event))
        if within is not None and len(budgets) == 1:  # format 1 keeps no task's budget
            budgets.append((self._tally.task(within.name), within))
        for spending, budget in budgets:
            after = spending.epsilon(budget.delta, event)
            if after > budget.epsilon:
                raise BudgetError(_over(budget, spending.epsilon(budget.delta), after, event))

    def _check_same_opening(self, chain: Chain) -> None:
        there, asked = chain.opening, self._opening
        assert there is not None
        if there.level != asked.level:
            raise ConfigError(
                f"the privacy ledger {self._path} is of the {there.level} level, the {asked.level} level was asked "
                "for: the two promise different things and are never added; each has a file of its own"
            )
        if (there.epsilon, there.delta) != (asked.epsilon, asked.delta):
            raise ConfigError(
                f"the privacy ledger {self._path} was opened for epsilon {there.epsilon} at delta {there.delta}, now "
                f"epsilon {asked.epsilon} at delta {asked.delta} is asked for: a budget is not changed on the way; ask "
                "for the first one again"
            )
        self._opening = there


class TaskLedger:
    """A `fedmesh.types.Ledger` of one task: what it charges must fit into its budget and into the device's."""

    def __init__(self, ledger: FileLedger, budget: TaskBudget) -> None:
        self._ledger = ledger
        self.budget = budget

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        """As `FileLedger.charge`, of an event labelled ``name/...``.

        Raises:
            BudgetError: the task's or the device's budget does not cover it; nothing was written.
            LedgerError: it cannot be made durable. Do not take the step.
            ConfigError: it cannot be accounted for, or its label is another task's.
        """
        self._ledger.charge(event, release_id=release_id, within=self.budget)

    def epsilon(self, delta: float | None = None) -> float:
        """Epsilon that the task spent so far, at `delta` or else at its budget's. Raises: TrustError."""
        return self._ledger.epsilon(self.budget.delta if delta is None else delta, task=self.budget.name)

    def __repr__(self) -> str:
        return f"TaskLedger({self.budget.name!r}, {self._ledger!r})"


def _is_unborn(data: bytes, line: bytes) -> bool:
    """A ledger without an entry is a new one, or one whose creation was interrupted; nothing else."""
    return len(data) <= len(line) and all(got in {0, wanted} for got, wanted in zip(data, line, strict=False))


def _over(budget: Opening | TaskBudget, now: float, after: float, event: PrivacyEvent) -> str:
    name = f" of task {budget.name!r}" if isinstance(budget, TaskBudget) else ""
    return (
        f"the privacy budget{name} is epsilon {budget.epsilon:g} at delta {budget.delta:g}; {now:.4g} of it is spent, "
        f"and with {event.label or event.mechanism!r} it would be {after:.4g}: this device declines"
    )
