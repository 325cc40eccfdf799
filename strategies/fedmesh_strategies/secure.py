"""Secure aggregation around a strategy, for Flower's own loop and Flower's own simulation.

`Strategy.start` knows one exchange a round, ``train``. The others are held inside the hooks around it, over the same
Grid: advertise and share before the train messages are handed out, sign and unmask when their replies are aggregated.
The script is the coordinator's (`fedmesh.coordinator.secure_round`), and so is what it promises.

    strategy = Secured(FedAvg(...), identity=identity, roster=roster, settings=SecureSettings("task", bits=8))
    strategy.start(grid, initial_arrays, num_rounds=10)
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedmesh.coordinator import Outcome, Round, Script, SecureAggregation, SecureSettings, SessionRecord
from fedmesh.coordinator.convener import counter
from fedmesh.coordinator.registry import Names
from fedmesh.coordinator.round import Begin, Effect, Finish, Replied, Send, Tick
from fedmesh.coordinator.snapshot import restore, snapshot
from fedmesh.errors import NothingLearnedError, RoundError
from fedmesh.secagg import Identity, Roster

__all__ = ["Secured"]

_LOG = logging.getLogger(__name__)


class Secured(Strategy):
    """A Flower strategy that sees the sum of the updates only.

    A round that fails leaves the arrays as they were and is logged, and `start` goes on with the next.

    Args:
        strategy: one with ``needs = "sum"`` and ``apply_sum``, e.g. `FedAvg`.
        identity, roster, settings, names, attempts: as for `SecureAggregation`. `start` fills in ``settings.rounds``.
        timeout_s: longest wait for the answers of a stage; `start` has its own.
        max_failed_rounds: so many failed rounds in a row end the run with the last one's error.

    Raises:
        ConfigError: see `SecureAggregation`.
    """

    needs = "sum"

    def __init__(
        self,
        strategy: Any,
        *,
        identity: Identity,
        roster: Roster,
        settings: SecureSettings,
        names: Names | None = None,
        attempts: Callable[[int], int] | None = None,
        timeout_s: float = 3600.0,
        max_failed_rounds: int = 3,
    ) -> None:
        self.strategy = strategy
        self.timeout_s = timeout_s
        self.max_failed_rounds = max_failed_rounds
        self.settings = settings
        self.refused: dict[int, str] = {}
        """Node id -> why its answer was not used in the last round."""
        self.sessions: tuple[SessionRecord, ...] = ()
        """The last round's."""
        self.failures: dict[int, str] = {}
        """Round -> why it failed."""
        self._make = functools.partial(
            SecureAggregation,
            strategy,
            identity=identity,
            roster=roster,
            names=names,
            attempts=attempts or counter(),
        )
        self._secure = self._make(settings=settings)
        self._exchange: _Exchange | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        *args: Any,
        **options: Any,
    ) -> Result:
        """Flower's loop.

        Raises:
            RoundError: too many rounds failed in a row, or all of them.
        """
        self.timeout_s, self.failures = timeout, {}
        self.settings = dataclasses.replace(self.settings, rounds=num_rounds)
        self._secure = self._make(settings=self.settings)
        result = super().start(grid, initial_arrays, num_rounds, timeout, *args, **options)
        if num_rounds and len(self.failures) == num_rounds:
            raise NothingLearnedError(f"all {num_rounds} rounds failed: {self.failures[num_rounds]}")
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The train messages, with the devices' sessions set up; none when the round has failed already."""
        self._exchange = _Exchange(grid, self.timeout_s)
        try:
            self._exchange.begin(self._secure.script(server_round, arrays, grid, train_config=config))
        except RoundError as error:  # e.g. too few devices are there
            self._exchange.outcome = Outcome(None, failed=error)
        return self._exchange.messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's arrays after the sum, and the metrics that travelled in it; neither when the round failed.

        Raises:
            RoundError: so did too many before it, or `configure_train` was not called.
        """
        if self._exchange is None:
            raise RoundError(f"round {server_round} is aggregated before it was configured")
        exchange, self._exchange = self._exchange, None
        outcome = exchange.finish(replies)
        self.refused, self.sessions = outcome.refused, outcome.sessions
        if outcome.failed is not None:
            self._fail(server_round, outcome.failed)
        return outcome.arrays, outcome.train_metrics

    def configure_evaluate(
        self,
        server_round: int,  # noqa: ARG002 - Flower's signature
        arrays: ArrayRecord,  # noqa: ARG002
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Nobody: a device's figures would leave it in the clear."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:  # noqa: ARG002
        """Nothing."""
        return None

    def summary(self) -> None:
        """The strategy's own."""
        self.strategy.summary()

    def snapshot(self) -> dict[str, Any]:
        """The strategy's state; sessions do not outlive the process."""
        return {"strategy": snapshot(self.strategy)}

    def restore(self, state: Any) -> None:
        """Takes up what `snapshot` gave."""
        restore(self.strategy, state["strategy"])

    def _fail(self, server_round: int, error: RoundError) -> None:
        self.failures[server_round] = str(error)
        _LOG.warning("round %d failed and changes nothing: %s", server_round, error)
        last = range(server_round, server_round - self.max_failed_rounds, -1)
        if all(number in self.failures for number in last):
            raise error


class _Exchange:
    """A round over a grid that sends and waits in one call. The train messages are sent by whoever called for them."""

    def __init__(self, grid: Grid, timeout_s: float) -> None:
        self._grid = grid
        self._timeout_s = timeout_s
        self._machine: Round | None = None
        self._sent: Send | None = None
        self.outcome: Outcome | None = None

    @property
    def messages(self) -> list[Message]:
        """Of the stage that is to be sent."""
        return [] if self._sent is None else list(self._sent.stage.messages)

    def begin(self, script: Script) -> None:
        """Up to the train messages, or to an early end."""
        self._machine = Round(script, deadline_s=1.0)  # of a clock that stands still: the grid is who waits
        self._follow(self._machine.handle(Begin(), 0.0))
        while self._sent is not None and self._sent.stage.name != "train":
            self._hear(self._send())

    def finish(self, replies: Iterable[Message]) -> Outcome:
        """From the replies to the train messages to the end, through further attempts if need be."""
        if self._sent is not None:
            self._hear(replies)
        while self._sent is not None:
            self._hear(self._send())
        assert self.outcome is not None
        return self.outcome

    def _send(self) -> Iterable[Message]:
        return self._grid.send_and_receive(self.messages, timeout=self._timeout_s)

    def _hear(self, replies: Iterable[Message]) -> None:
        """The stage's replies, and its end."""
        assert self._machine is not None
        assert self._sent is not None
        number = self._sent.number
        index = {message.metadata.dst_node_id: i for i, message in enumerate(self._sent.stage.messages)}
        effects: list[Effect] = []
        for reply in replies:
            if (place := index.get(reply.metadata.src_node_id)) is not None:
                effects += self._machine.handle(Replied(number, place, reply), 0.0)
        self._follow(effects or self._machine.handle(Tick(), math.inf))

    def _follow(self, effects: Iterable[Effect]) -> None:
        self._sent = None
        for effect in effects:
            match effect:
                case Send():
                    self._sent = effect
                case Finish(outcome):
                    self.outcome = outcome
