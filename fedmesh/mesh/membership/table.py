"""What a member knows of the others, and which statement changes it.

Laws: an incarnation never goes back; a member is here by its own signed word only; an accusation counts only for the
incarnation that its subject has itself announced. A `dead` of another is one more accusation, not a verdict: everybody
waits for its own suspicion to end, so that no single member can put another one out before it can answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from fedmesh.mesh.membership.settings import Settings
from fedmesh.mesh.membership.statements import State, Statement

__all__ = ["Member", "Record", "Table", "Verdict"]


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as one sees it.

    Attributes:
        addresses: where it said that it is: hints, to be proven by a handshake.
        model: the version that it said it has; empty if it said none.
    """

    name: str
    state: State
    incarnation: int
    addresses: tuple[str, ...]
    model: str


class Verdict(Enum):
    """What a statement is to who hears it."""

    NEWS = "it changes something"
    OLD = "it never will"
    NOT_NOW = "it changes nothing, and could have if something else had been known"


@dataclass(slots=True)
class Record:
    """All about one member.

    Attributes:
        own: the last that it said itself, alive or left.
        state: what it is held to be; since: since when, on the owner's clock.
        accusations: accuser -> statement, for this incarnation; at most `confirmations` + 1.
        members: how many there were when the suspicion began.
        begun: when it began; moved when the owner itself stood still.
    """

    own: Statement
    state: State
    since: float
    accusations: dict[str, Statement] = field(default_factory=dict)
    members: int = 0
    begun: float = 0.0

    @property
    def member(self) -> Member:
        """For who asks."""
        return Member(self.own.subject, self.state, self.own.incarnation, self.own.addresses, self.own.model)

    @property
    def proof(self) -> list[bytes]:
        """The statements by which somebody else comes to know the same."""
        return [self.own.raw, *(statement.raw for statement in self.accusations.values())]


class Table:
    """Everybody but its owner.

    Args:
        settings: of the owner.
        changed: called with name and member after each change; with None when one was removed.
    """

    def __init__(self, settings: Settings, changed: Callable[[str, Member | None], None]) -> None:
        self._settings, self._changed = settings, changed
        self.records: dict[str, Record] = {}
        self.suspects: set[str] = set()
        self._live: list[str] | None = None
        self._gone: list[str] | None = None

    @property
    def live(self) -> list[str]:
        """Names of those who are alive or suspect; not to be changed."""
        if self._live is None:
            self._live = [name for name, record in self.records.items() if record.state <= State.SUSPECT]
        return self._live

    @property
    def dead(self) -> list[str]:
        """Names of the dead; not to be changed."""
        if self._gone is None:
            self._gone = [name for name, record in self.records.items() if record.state is State.DEAD]
        return self._gone

    @property
    def size(self) -> int:
        """Members that are here, the owner included."""
        return len(self.live) + 1

    def judge(self, statement: Statement) -> Verdict:
        """What `statement` would do."""
        record = self.records.get(statement.subject)
        if record is None:
            return Verdict.NOT_NOW if statement.is_accusation else Verdict.NEWS
        known = record.own.incarnation
        if statement.incarnation != known:
            ahead = Verdict.NOT_NOW if statement.is_accusation else Verdict.NEWS
            return Verdict.OLD if statement.incarnation < known else ahead
        if statement.state is State.ALIVE:
            return Verdict.OLD
        if statement.state is State.LEFT:
            return Verdict.OLD if record.state is State.LEFT else Verdict.NEWS
        is_enough = len(record.accusations) > self._settings.confirmations
        if record.state >= State.DEAD or statement.author in record.accusations or is_enough:
            return Verdict.OLD
        return Verdict.NEWS

    def apply(self, statement: Statement, now: float) -> None:
        """Takes over a verified statement that is news."""
        name = statement.subject
        if not statement.is_accusation:
            self._replace(name, Record(statement, statement.state, now))
            return
        record = self.records[name]
        record.accusations[statement.author] = statement
        if record.state is State.ALIVE:
            record.members, record.begun = self.size, now
            self._move(name, record, State.SUSPECT, now)

    def bury(self, name: str, verdict: Statement, now: float) -> None:
        """The suspicion of `name` has ended: `verdict` is the owner's word for it."""
        record = self.records[name]
        record.accusations = {verdict.author: verdict}
        self._move(name, record, State.DEAD, now)

    def deadline(self, name: str) -> float:
        """When the suspicion of `name` ends."""
        record = self.records[name]
        confirmed = len(record.accusations) - 1
        return record.begun + self._settings.suspicion_s(record.members, confirmed)

    def shift(self, seconds: float) -> None:
        """The owner stood still for so long: nobody could refute."""
        for name in self.suspects:
            self.records[name].begun += seconds

    def remove(self, name: str) -> None:
        """Forgets `name`, who is not on the roster any more."""
        del self.records[name]
        self.suspects.discard(name)
        self._live = self._gone = None
        self._changed(name, None)

    def withdraw(self, accuser: str, now: float) -> None:
        """What `accuser`, who is not on the roster any more, said of others."""
        for name, record in self.records.items():
            if record.accusations.pop(accuser, None) is not None and not record.accusations:
                self._move(name, record, State.ALIVE, now)

    def _replace(self, name: str, record: Record) -> None:
        self.records[name] = record
        self._move(name, record, record.state, record.since)

    def _move(self, name: str, record: Record, state: State, now: float) -> None:
        record.state, record.since = state, now
        (self.suspects.add if state is State.SUSPECT else self.suspects.discard)(name)
        self._live = self._gone = None
        self._changed(name, record.member)
