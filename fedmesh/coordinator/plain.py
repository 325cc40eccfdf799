"""A round of any Flower strategy: train, aggregate, and evaluate on the devices if the strategy asks for it.

Calls the strategy's public hooks in the order of ``Strategy.start``.
"""

from collections.abc import Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmesh.coordinator.settings import RoundSettings
from fedmesh.coordinator.stage import Outcome, Stage

__all__ = ["StrategyRound"]


class StrategyRound:
    """The `Script` of one round of a Flower strategy.

    Args:
        strategy: any message-based Flower strategy.
        number: the round, from 1.
        arrays: the global arrays that it begins with.
        grid: passed to the strategy, which samples nodes from it.
        quorum: fewest trained replies.
        settings: how many trained replies are enough, and how long to wait for them; None: all, for the default time.
        train_config, evaluate_config: passed to the strategy, which may write to them.
    """

    def __init__(
        self,
        strategy: Strategy,
        number: int,
        arrays: ArrayRecord,
        grid: Grid,
        *,
        quorum: int = 1,
        settings: RoundSettings | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
    ) -> None:
        self._strategy = strategy
        self._number = number
        self._arrays = arrays
        self._grid = grid
        self._quorum = quorum
        self._settings = settings or RoundSettings()
        self._train_config = ConfigRecord() if train_config is None else train_config.copy()
        self._evaluate_config = ConfigRecord() if evaluate_config is None else evaluate_config.copy()
        self._trained: tuple[ArrayRecord | None, MetricRecord | None] | None = None
        self._good_replies = 0

    def begin(self) -> Stage:
        """Asks the strategy whom to train, and on what."""
        configured = self._strategy.configure_train(self._number, self._arrays, self._train_config, self._grid)
        messages = tuple(configured)
        return Stage(
            "train",
            messages,
            quorum=self._quorum if messages else 0,
            enough=self._settings.enough(len(messages)),
            deadline_s=self._settings.train_deadline_s,
        )

    def proceed(self, replies: Sequence[Message]) -> Stage | Outcome:
        """Aggregates; after training comes evaluation, which may have nobody to ask."""
        if self._trained is None:
            self._good_replies = sum(not reply.has_error() for reply in replies)
            self._trained = self._strategy.aggregate_train(self._number, list(replies))
            arrays = self._arrays if self._trained[0] is None else self._trained[0]
            configured = self._strategy.configure_evaluate(self._number, arrays, self._evaluate_config, self._grid)
            return Stage("evaluate", tuple(configured))
        metrics = self._strategy.aggregate_evaluate(self._number, list(replies))
        refused = dict(getattr(self._strategy, "refused", {}))
        survivors = self._good_replies - len(refused)
        return Outcome(self._trained[0], survivors, self._trained[1], metrics, refused)
