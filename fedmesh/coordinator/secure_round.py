"""A round under secure aggregation: the strategy says who trains on what, and is given the sum and nothing else.

Five exchanges: advertise, share, train, sign, unmask (three when the keys were exchanged in the round before). A device
that sends nonsense or nothing is left out. A group whose session aborts is left out as long as the other groups hold
the quorum; otherwise the round begins again, with new keys, among the devices that are still there. So it does when
many were lost before the training: keys are cheap, training is not, and a session with nobody left to lose would fail
after it. Once a set of survivors was sent out to be signed there is no other attempt: devices sign one set a round (the
difference of two sums would be somebody's input). The round fails then, with the session's own reason.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedmesh.coordinator.ahead import Ahead
from fedmesh.coordinator.attempt import Attempt
from fedmesh.coordinator.convener import Convener
from fedmesh.coordinator.groups import SMALLEST_GROUP
from fedmesh.coordinator.instructions import Instructions, SumStrategy
from fedmesh.coordinator.registry import Registry
from fedmesh.coordinator.selection import Selection
from fedmesh.coordinator.settings import RoundSettings
from fedmesh.coordinator.stage import Outcome, Stage
from fedmesh.errors import DecodeError, QuorumError, RoundError
from fedmesh.flower.records import excerpt
from fedmesh.flower.secure import AHEAD, HELLO, QUERY, Order, answer_in, asked, name_in

__all__ = ["Federation", "SecureRound"]

_UNSIGNED = {"share", "train", "sign"}
"""Steps that an attempt is about to enter before anybody was asked for a signature."""


@dataclass(frozen=True, slots=True)
class Federation:
    """What outlives a round.

    Attributes:
        strategy: draws devices and applies the sum.
        convener: opens sessions. registry: names of the nodes. ahead: the next round's sessions.
        selection: whom the strategy may draw. settings: how many inputs are enough, and how long to wait for them.
        quorum: fewest inputs in a round's sum.
    """

    strategy: SumStrategy
    convener: Convener
    registry: Registry
    ahead: Ahead
    selection: Selection
    settings: RoundSettings
    quorum: int


class SecureRound:
    """The `Script` of one round.

    Args:
        federation: whose round it is.
        number: the round, from 1.
        arrays: the global arrays that it begins with.
        grid: passed to the strategy, and asked who is there.
        config: passed to the strategy, which may write to it.
    """

    def __init__(
        self, federation: Federation, number: int, arrays: ArrayRecord, grid: Grid, config: ConfigRecord
    ) -> None:
        self._strategy = federation.strategy
        self._convener = federation.convener
        self._registry = federation.registry
        self._ahead = federation.ahead
        self._selection = federation.selection
        self._settings = federation.settings
        self._quorum = federation.quorum
        self._number = number
        self._arrays = arrays
        self._grid = grid
        self._config = config
        self._instructions = Instructions((), self._strategy.layout)
        self._names: dict[int, str] = {}
        self._attempts: list[Attempt] = []
        self._asked: frozenset[int] = frozenset()  # in the stage under way, for this round
        self._answered: set[int] = set()
        self._gone: set[int] = set()  # did not answer, or with nonsense
        self._refused: dict[int, str] = {}

    def begin(self) -> Stage | Outcome:
        """Asks the strategy whom to train, on what; and devices that nobody knows for their names."""
        drawn = self._selection.grid(self._grid, self._number)
        messages = self._strategy.configure_train(self._number, self._arrays, self._config, drawn)
        self._instructions = Instructions(tuple(messages), self._strategy.layout)
        if unknown := self._registry.unknown(self._instructions.nodes):
            return self._stage(
                HELLO, {node: self._query(node, Order(HELLO), None) for node in unknown}, self._introduced
            )
        return self._guarded(self._open)

    def proceed(self, replies: Sequence[Message]) -> Stage | Outcome:  # noqa: ARG002 - taken as they arrived
        """Ends the step and enters the next, or another attempt, or the end."""
        self._gone |= self._asked - self._answered
        return self._guarded(self._follow if self._attempts else self._open)

    def _guarded(self, following: Callable[[], Stage | Outcome]) -> Stage | Outcome:
        try:
            return following()
        except RoundError as error:
            return self._outcome(Outcome(None, failed=error))

    def _open(self) -> Stage:
        """The first attempt: the prepared one if it fits."""
        nodes = self._instructions.nodes
        self._names = self._registry.named(nodes - self._gone)
        for node in nodes - self._gone - self._names.keys():
            self._refused[node] = "no device of its name is on the roster, or another node has that name"
        prepared = self._ahead.take(self._number, self._names, self._instructions.belongs)
        return self._enter(prepared or self._convened())

    def _convened(self) -> Attempt:
        names = {node: name for node, name in self._names.items() if node not in self._gone}
        wanted = self._convener.fewest(self._quorum)
        if len(names) < wanted:
            raise self._reason(len(names), wanted)
        belongs, tried = self._instructions.belongs, len(self._attempts)
        return self._convener.open(self._number, names, belongs, quorum=self._quorum, tried=tried)

    def _enter(self, attempt: Attempt) -> Stage:
        self._attempts.append(attempt)
        return self._step()

    def _follow(self) -> Stage | Outcome:
        attempt = self._attempts[-1]
        before = attempt.step
        attempt.close()
        if before in {"train", "sign"}:
            self._ahead.close()
        if attempt.step == "done":
            return self._finish(attempt)
        again = attempt.step in _UNSIGNED and len(self._attempts) < self._convener.settings.attempts
        if attempt.members >= self._quorum:
            if not (again and attempt.strained):
                return self._step()
            attempt.give_up()
        if not again:
            raise self._reason(attempt.members, self._quorum)
        self._ahead.drop()
        return self._enter(self._convened())

    def _step(self) -> Stage:
        """The messages of the step that the last attempt is at."""
        attempt = self._attempts[-1]
        if attempt.step == "train":
            nodes = list(self._grid.get_node_ids())
            self._ahead.prepare(self._number + 1, nodes, self._gone, quorum=self._quorum)
        current = attempt.orders()
        ahead = self._ahead.orders() if attempt.step in {"train", "sign"} else {}
        write = self._instructions.message if attempt.step == "train" else self._query
        messages = {node: write(node, order, ahead.get(node)) for node, order in current.items()}
        others = {node: self._query(node, None, order) for node, order in ahead.items() if node not in current}
        stage = self._stage(attempt.step, messages | others, self._heard)
        self._asked = frozenset(current)
        return self._limited(stage) if attempt.step == "train" else stage

    def _limited(self, stage: Stage) -> Stage:
        """The training: it goes on as soon as every group has enough inputs, and waits as long as training may take."""
        wanted = self._settings.enough(len(self._instructions.nodes))
        satisfied = None if wanted is None else lambda: self._attempts[-1].enough(self._answered, wanted)
        return replace(stage, satisfied=satisfied, deadline_s=self._settings.train_deadline_s)

    def _stage(self, name: str, messages: dict[int, Message], arrived: Callable[[Message], None]) -> Stage:
        self._asked, self._answered = frozenset(messages), set()
        ordered = tuple(messages[node] for node in sorted(messages))
        return Stage(name, ordered, arrived=arrived, about=self._instructions.nodes)

    def _query(self, node: int, current: Order | None, ahead: Order | None) -> Message:
        return Message(asked(self._number, current, ahead), node, QUERY, group_id=str(self._number))

    def _introduced(self, reply: Message) -> None:
        """A device says its name."""
        node = reply.metadata.src_node_id
        try:
            self._registry.learn(node, name_in(reply.content))
            self._answered.add(node)
        except DecodeError as error:
            self._refused[node] = excerpt(str(error))

    def _heard(self, reply: Message) -> None:
        """An answer of a step, given to its sessions at once: the sum does not depend on the order."""
        node, attempt = reply.metadata.src_node_id, self._attempts[-1]
        if node in self._asked:
            try:
                message = answer_in(reply.content, max_bytes=attempt.max_answer_bytes(node))
            except DecodeError as error:
                self._refused[node] = excerpt(str(error))
            else:
                if message is None:
                    self._refused[node] = excerpt(f"no message of its session came, but {sorted(reply.content)}")
                elif attempt.hear(node, message):
                    self._answered.add(node)
        with suppress(DecodeError):  # costs the next round its head start, nobody a place in it
            self._ahead.hear(node, answer_in(reply.content, AHEAD, max_bytes=self._ahead.max_answer_bytes(node)))

    def _finish(self, attempt: Attempt) -> Outcome:
        results, settings = attempt.results, self._convener.settings
        survivors = sum(len(result.survivors) for result in results)
        if not results or survivors < self._quorum:
            raise self._reason(survivors, self._quorum)
        total, weight = results[0].total.copy(), sum(result.weight for result in results)
        for result in results[1:]:
            total += result.total
        size = len(total) - settings.metrics.length
        arrays = self._strategy.apply_sum(total[:size], weight)
        reported = settings.metrics.decode(total[size:], weight)
        metrics = MetricRecord({"survivors": survivors, "weight": weight, **reported})
        return self._outcome(Outcome(arrays, survivors, metrics))

    def _outcome(self, outcome: Outcome) -> Outcome:
        """With what is to be remembered of every attempt."""
        refused = dict(self._refused)
        for attempt in self._attempts:
            refused |= attempt.refused
        sessions = tuple(record for attempt in self._attempts for record in attempt.records)
        return replace(outcome, refused=refused, sessions=sessions)

    def _reason(self, arrived: int, wanted: int) -> RoundError:
        """Why the round cannot go on: what its last attempt says, or that too few are left."""
        error = self._attempts[-1].error if self._attempts else None
        return error or QuorumError(
            f"{arrived} devices are left for the sum of round {self._number}, it wants {wanted}: lower the quorum, ask "
            f"more devices or raise the deadline (no sum is taken of fewer than {SMALLEST_GROUP})",
            arrived=arrived,
            wanted=wanted,
        )
