"""What the entries of a ledger add up to: in all and task by task, with settled charges at what they cost in truth.

A running sum of Renyi curves makes the check of a charge independent of the ledger's length. Knows no file.
"""

from collections import Counter
from dataclasses import dataclass, field

from fedmesh.privacy import renyi
from fedmesh.privacy.entries import Charge, Entry, Settlement, TaskBudget, check_settlement, damaged
from fedmesh.types import PrivacyEvent

__all__ = ["Spending", "Tally", "task_of"]


def task_of(event: PrivacyEvent) -> str:
    """The task that an event was charged for: what stands before the first slash of its label."""
    return event.label.partition("/")[0]


class Spending:
    """A multiset of events and its Renyi curve. ``after(e)`` is the same before and after any regrouping."""

    def __init__(self) -> None:
        self._counts: Counter[renyi.Parameters] = Counter()
        self._new: Counter[renyi.Parameters] = Counter()  # counted, and not yet in the curve
        self._curve = renyi.nothing()

    def events(self) -> list[PrivacyEvent]:
        """All events, equal ones joined, without labels."""
        return [PrivacyEvent(name, dict(items), count) for (name, items), count in self._counts.items()]

    def add(self, event: PrivacyEvent) -> None:
        """Counts `event`."""
        parameters = renyi.key(event)
        self._counts[parameters] += event.count
        self._new[parameters] += event.count

    def replace(self, old: PrivacyEvent, new: PrivacyEvent) -> None:
        """Counts `new` in the place of `old`, which was added."""
        self._counts[renyi.key(old)] -= old.count
        self._counts[renyi.key(new)] += new.count
        self._counts += Counter()  # drops what is down to zero
        self._new, self._curve = self._counts.copy(), renyi.nothing()  # a sum that was capped cannot be taken apart

    def epsilon(self, delta: float, *more: PrivacyEvent) -> float:
        """Epsilon by RDP at `delta`, with `more` on top. Raises: ConfigError: an event cannot be accounted for."""
        for parameters, count in list(self._new.items()):
            self._curve = _and(self._curve, parameters, count)
            del self._new[parameters]
        total = self._curve
        for event in more:
            total = _and(total, renyi.key(event), event.count)
        return renyi.epsilon_of(total, delta)

    def epsilon_with(self, old: PrivacyEvent, new: PrivacyEvent, delta: float) -> float:
        """What `epsilon` would be after ``replace(old, new)``."""
        other = Spending()
        other._counts = self._counts.copy()
        other.replace(old, new)
        return other.epsilon(delta)


def _and(curve: renyi.Curve, parameters: renyi.Parameters, count: int) -> renyi.Curve:
    return renyi.added(curve, renyi.times(renyi.curve(parameters), count))


@dataclass(slots=True)
class Tally:
    """What a ledger's entries say together.

    Attributes:
        charges: entry number -> charge, as it was entered.
        settled: entry number -> what that charge cost in truth.
        budgets: task -> its budget, where an entry states one.
        releases: release id -> the entry that paid for it.
        whole: all that was spent; by_task: the same, task by task.
    """

    charges: dict[int, Charge] = field(default_factory=dict)
    settled: dict[int, PrivacyEvent] = field(default_factory=dict)
    budgets: dict[str, TaskBudget] = field(default_factory=dict)
    releases: dict[str, int] = field(default_factory=dict)
    whole: Spending = field(default_factory=Spending)
    by_task: dict[str, Spending] = field(default_factory=dict)

    def enter(self, number: int, entry: Entry) -> None:
        """Counts entry `number`. Raises: LedgerError: it contradicts those before it."""
        match entry:
            case Charge():
                self._charge(number, entry)
            case TaskBudget():
                if entry.name in self.budgets:
                    raise damaged(number, f"states the budget of task {entry.name!r} again")
                self.budgets[entry.name] = entry
            case Settlement():
                self._settle(number, entry)

    def cost(self, number: int) -> PrivacyEvent:
        """What the charge of entry `number` counts as."""
        return self.settled.get(number, self.charges[number].event)

    def task(self, name: str) -> Spending:
        """What the task `name` spent."""
        return self.by_task.setdefault(name, Spending())

    def refusal(self, entry: Settlement) -> str | None:
        """Why `entry` must not be entered; None if it may.

        A charge is settled once. What was settled may be set back to the charge, and then stays: a release that was
        repeated may be in a sum of fewer survivors.
        """
        charge = self.charges.get(entry.entry)
        if charge is None:
            return "settles what is no charge"
        before = self.settled.get(entry.entry)
        if before is not None and (before == charge.event or entry.event != charge.event):
            return "settles a charge again"
        return check_settlement(charge.event, entry.event)

    def _charge(self, number: int, charge: Charge) -> None:
        self.charges[number] = charge
        self.whole.add(charge.event)
        self.task(task_of(charge.event)).add(charge.event)
        if charge.release_id is not None:
            self.releases[charge.release_id] = number

    def _settle(self, number: int, entry: Settlement) -> None:
        why = self.refusal(entry)
        if why is not None:
            raise damaged(number, why)
        before = self.cost(entry.entry)
        self.settled[entry.entry] = entry.event
        self.whole.replace(before, entry.event)
        self.task(task_of(self.charges[entry.entry].event)).replace(before, entry.event)
