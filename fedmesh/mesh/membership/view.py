"""What one member says and believes: its own word, the table of the others, and the news to be passed on.

Every statement is judged first (most of what gossip brings is old), then verified under the roster, then taken over.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from fedmesh.errors import ConfigError
from fedmesh.mesh.membership.broadcasts import Broadcasts
from fedmesh.mesh.membership.health import LocalHealth
from fedmesh.mesh.membership.incarnations import Incarnations
from fedmesh.mesh.membership.settings import Settings
from fedmesh.mesh.membership.statements import Signer, State, Statement, is_signed, read_statement
from fedmesh.mesh.membership.table import Member, Table, Verdict

__all__ = ["View"]

_BAD_STATEMENTS = 4  # of one message; a few may come of a roster that is newer here than there
_JUDGED = 4096
_BULK = 1  # so often what was told of all is told on: a few may not know it yet, most will


class View:
    """Of one member.

    Args: as those of `Swim`; `health` is told when this member has to refute.

    Attributes:
        own: the last that this member said of itself; None before it said anything.
        table: the others; news: what is to be passed on.
        counts: what was refused, by reason.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        key_of: Callable[[str], bytes | None],
        incarnations: Incarnations,
        settings: Settings,
        health: LocalHealth,
        changed: Callable[[str, Member | None], None],
    ) -> None:
        self.own: Statement | None = None
        self.table = Table(settings, changed)
        self.news = Broadcasts()
        self.counts: Counter[str] = Counter()
        self._signer, self._key_of, self._incarnations = signer, key_of, incarnations
        self._settings, self._health = settings, health
        self._name = signer.name.id
        self._keys: dict[str, bytes] = {}  # those under which what is in the table was verified
        self._judged: dict[bytes, None] = {}

    @property
    def said(self) -> Statement:
        """What this member last said of itself."""
        assert self.own is not None, "nothing is sent or read before the start"
        return self.own

    @property
    def incarnation(self) -> int:
        """Of this member; 0 before it said anything."""
        return 0 if self.own is None else self.own.incarnation

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody, this one included, by name."""
        known = {name: record.member for name, record in self.table.records.items()}
        if self.own is not None:
            own = self.own
            known[self._name] = Member(self._name, own.state, own.incarnation, own.addresses, own.model)
        return tuple(known[name] for name in sorted(known))

    @property
    def standings(self) -> dict[str, tuple[int, int]]:
        """Name -> incarnation and state of everybody, this one included."""
        rows = {name: (record.own.incarnation, int(record.state)) for name, record in self.table.records.items()}
        rows[self._name] = (self.said.incarnation, int(self.said.state))
        return rows

    def proof(self, name: str) -> list[bytes]:
        """The statements by which another comes to know of `name` what is known here."""
        return [self.said.raw] if name == self._name else self.table.records[name].proof

    def against(self, name: str) -> list[bytes]:
        """What is held against `name`, and only it can refute."""
        record = self.table.records.get(name)
        return record.proof if record is not None and record.accusations else []

    def announce(self, addresses: Sequence[str], model: str, *, beyond: int = 0) -> None:
        """Says that this member is here. Raises: ConfigError: see `Signer.alive` and `Incarnations.beyond`."""
        number = self._incarnations.beyond(max(beyond, self.incarnation))
        self.own = self._signer.alive(number, addresses, model)
        self.news.put(self.own)

    def depart(self) -> None:
        """Says that this member leaves."""
        self.own = self._signer.left(self.said.incarnation)

    def read(self, statements: Iterable[bytes], now: float, *, in_bulk: bool) -> None:
        """Takes over what is news and properly signed, and passes it on.

        Args:
            in_bulk: whether they come of comparing views: mostly old, and passed on a few times only.

        Raises:
            DecodeError: one is malformed; those before it are taken over.
        """
        bad = 0
        for raw in statements:
            if raw in self._judged:
                continue
            statement = read_statement(raw)
            verdict = self._judge(statement)
            if verdict is Verdict.NEWS:
                if not self._is_proven(statement):
                    bad += 1
                    if bad >= _BAD_STATEMENTS:  # verifying costs more than sending
                        return
                    continue
                self._take(statement, now, in_bulk=in_bulk)
            if verdict is not Verdict.NOT_NOW:
                self._remember(raw)

    def accuse(self, name: str, now: float) -> None:
        """A probe of `name` has failed."""
        record = self.table.records.get(name)
        if record is not None:
            statement = self._signer.accuse(State.SUSPECT, name, record.own.incarnation)
            if self.table.judge(statement) is Verdict.NEWS:
                self._take(statement, now, in_bulk=False)

    def end_suspicions(self, now: float) -> None:
        """Who has not refuted in time is dead.

        That is told to those who ask, and to itself, but is no news: everybody has heard the accusations and waits for
        itself, and when half of the mesh is cut off, as many verdicts as there are pairs would only be in the way.
        """
        for name in [name for name in self.table.suspects if now >= self.table.deadline(name)]:
            verdict = self._signer.accuse(State.DEAD, name, self.table.records[name].own.incarnation)
            self.table.bury(name, verdict, now)

    def roster_changed(self, now: float) -> None:
        """Removes who is not on the roster any more, or is on it under another key, and what they said of others."""
        self._judged.clear()
        for name, key in list(self._keys.items()):
            if self._key_of(name) != key:
                del self._keys[name]
                self.news.drop(name)
                self.table.withdraw(name, now)
                if name in self.table.records:
                    self.table.remove(name)

    def _judge(self, statement: Statement) -> Verdict:
        if statement.subject != self._name:
            return self.table.judge(statement)
        own = self.said
        if statement.incarnation < own.incarnation or statement.raw == own.raw:
            return Verdict.OLD
        # Somebody accuses this member, or remembers one of its lives that it has forgotten itself.
        is_ahead = statement.is_accusation and statement.incarnation > own.incarnation
        return Verdict.NOT_NOW if is_ahead else Verdict.NEWS

    def _is_proven(self, statement: Statement) -> bool:
        key = self._key_of(statement.author)
        if key is None or self._key_of(statement.subject) is None:
            self.counts["name"] += 1
            return False
        if not is_signed(statement.raw, self._signer.name.mesh, key):
            self.counts["proof"] += 1
            return False
        is_new = statement.subject != self._name and statement.subject not in self.table.records
        if is_new and len(self.table.records) >= self._settings.members:
            self.counts["full"] += 1
            return False
        self._keys[statement.author] = key
        return True

    def _take(self, statement: Statement, now: float, *, in_bulk: bool) -> None:
        if statement.subject == self._name:
            self._refute(statement)
            return
        self.table.apply(statement, now)
        limit = self._settings.retransmissions(self.table.size)
        self.news.put(statement, sent=max(0, limit - _BULK) if in_bulk else 0)

    def _refute(self, statement: Statement) -> None:
        try:
            self.announce(self.said.addresses, self.said.model, beyond=statement.incarnation)
        except ConfigError:  # a full disk: the member goes on, accused; `update` and `start` say what is wrong
            self.counts["storage"] += 1
            return
        if statement.is_accusation:
            self._health.worse()

    def _remember(self, raw: bytes) -> None:
        if len(self._judged) >= _JUDGED:
            self._judged.clear()
        self._judged[raw] = None
