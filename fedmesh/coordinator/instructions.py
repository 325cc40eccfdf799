"""What a strategy has its devices train on, with the orders of secure aggregation put in."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmesh.coordinator.secure_settings import Belongs
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.flower.arrays import vector
from fedmesh.flower.backbone import digest_in
from fedmesh.flower.secure import AHEAD, Order, attach, model_hash, scale_hash
from fedmesh.types import Layout

__all__ = ["Instructions", "SumStrategy", "check_sums"]


class SumStrategy(Protocol):
    """A strategy that is content with the sum of all updates (``needs = "sum"``).

    One with ``drawn(round, node ids) -> node ids`` also lets the next round's keys be exchanged ahead.
    """

    layout: Layout

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The train messages: ``arrays`` with the `model`, ``config`` with its ``delta-ranges``, alike for all."""
        ...

    def apply_sum(self, total: NDArray[np.int64], weight: int) -> ArrayRecord:
        """The new arrays, given the sum of weight * codes and the sum of the weights."""
        ...


def check_sums(strategy: object) -> None:
    """Raises: ConfigError: the strategy needs more than a sum, or cannot be given one."""
    name = type(strategy).__name__
    if getattr(strategy, "needs", None) != "sum" or not callable(getattr(strategy, "apply_sum", None)):
        raise ConfigError(
            f"the strategy {name} has no needs = 'sum' with apply_sum(total, weight): secure aggregation shows a "
            "strategy the sum of the updates only. Choose one that has, or turn secure aggregation off"
        )
    if not isinstance(getattr(strategy, "layout", None), Layout):
        raise ConfigError(f"the strategy {name} has no layout: secure aggregation has to know the length of an update")
    if getattr(strategy, "codec", "integer") != "integer":
        raise ConfigError("secure aggregation adds integers: use the integer codec, or turn secure aggregation off")


class Instructions:
    """The train messages of a round.

    Args:
        messages: the strategy's.
        layout: of the model.

    Raises:
        ConfigError: the messages hold no model and ranges, or not all the same: their updates could not be summed.
    """

    def __init__(self, messages: Sequence[Message], layout: Layout) -> None:
        self._messages = {message.metadata.dst_node_id: message for message in messages}
        self.nodes = frozenset(self._messages)
        """Who is drawn."""
        kinds = {(id(content["arrays"]), id(content["config"])): content for content in map(_content, messages)}
        belongs = {_belongs(content, layout) for content in kinds.values()}
        if len(belongs) > 1:
            raise ConfigError(f"the strategy sent {len(belongs)} different models: updates of one only can be summed")
        self.belongs: Belongs = belongs.pop() if belongs else (b"", b"")

    def message(self, node: int, current: Order, ahead: Order | None) -> Message:
        """The strategy's message to `node`, with its orders in this session and in the next round's."""
        original = self._messages[node]
        content = RecordDict(dict(original.content.items()))
        attach(content, current)
        if ahead is not None:
            attach(content, ahead, AHEAD)
        metadata = original.metadata
        return Message(content, node, metadata.message_type, ttl=metadata.ttl, group_id=metadata.group_id)


def _content(message: Message) -> RecordDict:
    content = message.content
    if "arrays" not in content.array_records or "config" not in content.config_records:
        raise ConfigError(f"a train message for secure aggregation holds 'arrays' and 'config', not {sorted(content)}")
    return content


def _belongs(content: RecordDict, layout: Layout) -> Belongs:
    ranges = content.config_records["config"].get("delta-ranges")
    if not isinstance(ranges, list):
        raise ConfigError("a train message for secure aggregation says delta-ranges in its config")
    try:
        weights = vector(content.array_records["arrays"], "model", dtype="float32", max_bytes=4 * layout.size)
    except DecodeError as error:
        raise ConfigError(f"a train message for secure aggregation holds the weights as 'model': {error}") from error
    return model_hash(weights, digest_in(content)), scale_hash([float(value) for value in ranges])
