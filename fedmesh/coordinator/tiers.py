"""Lite devices beside full ones: each is sent the round's backbone with its train message, whatever the strategy.

A full device trains the whole model, a lite one its last layer behind an int8 backbone made from the very weights that
the strategy sends. Every device is told the backbone's digest, which secure aggregation binds with the model.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmesh.errors import ConfigError
from fedmesh.flower.backbone import DIGEST, attach_backbone

__all__ = ["Tiered"]


class Tiered(Strategy):
    """A strategy around another one, which it leaves as it is; what it does not know it asks the other for.

    Args:
        strategy: sends the global weights as the record ``arrays``, alike to all devices of a round.
        is_lite: node id -> whether its device is a lite one.
        backbone_of: those arrays -> the model cut before its last layer, as int8 ONNX. Asked once a round, and only
            when a lite device was drawn.
    """

    def __init__(
        self, strategy: Strategy, *, is_lite: Callable[[int], bool], backbone_of: Callable[[ArrayRecord], bytes]
    ) -> None:
        self._strategy = strategy
        self._is_lite = is_lite
        self._backbone_of = backbone_of

    def __getattr__(self, name: str) -> Any:
        """What else the strategy offers: `needs`, `layout`, `apply_sum`, `drawn`, `snapshot` and whatever it likes."""
        if name == "_strategy":  # not made yet
            raise AttributeError(name)
        return getattr(self._strategy, name)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's messages; those to lite devices with the backbone.

        Raises:
            ConfigError: a lite device was drawn, and the messages do not all hold the same arrays and a config.
        """
        messages = list(self._strategy.configure_train(server_round, arrays, config, grid))
        if not any(self._is_lite(message.metadata.dst_node_id) for message in messages):
            return messages
        sent = _alike(messages)
        backbone = self._backbone_of(sent.array_records["arrays"])
        told = sent.config_records["config"].copy()
        told[DIGEST] = hashlib.sha256(backbone).digest()
        full = RecordDict({**dict(sent.items()), "config": told})
        lite = RecordDict(dict(full.items()))
        attach_backbone(lite, backbone)
        return [_with(message, lite if self._is_lite(message.metadata.dst_node_id) else full) for message in messages]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The strategy's."""
        return self._strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The strategy's."""
        return self._strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The strategy's."""
        return self._strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The strategy's."""
        self._strategy.summary()


def _alike(messages: list[Message]) -> RecordDict:
    """The content of all the messages."""
    content = messages[0].content
    for other in (message.content for message in messages):
        if "arrays" not in other.array_records or "config" not in other.config_records:
            raise ConfigError(f"a train message beside lite devices holds 'arrays' and 'config', not {sorted(other)}")
        if any(other[name] is not content[name] and other[name] != content[name] for name in ("arrays", "config")):
            raise ConfigError(
                "the strategy sends devices different models: lite devices want one that sends one to all"
            )
    return content


def _with(message: Message, content: RecordDict) -> Message:
    metadata = message.metadata
    return Message(content, metadata.dst_node_id, metadata.message_type, ttl=metadata.ttl, group_id=metadata.group_id)
