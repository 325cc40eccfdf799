"""Federated averaging (McMahan et al. 2017) of quantized weight deltas, summed in integers.

A device is sent the global weights as one flat float32 array and the largest change of each tensor that it can report;
it answers with one packet of the delta codec. The server adds the packets' integers, which is exact and the same in any
order, and moves the weights by the mean. It needs nothing but that sum, so secure aggregation can stand in for it.

A packet that is malformed, oversized or made for other ranges costs its device the round, not the round.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedmesh.clock import Clock, SystemClock
from fedmesh.errors import ConfigError, DecodeError, QuorumError, RoundError
from fedmesh.flower.arrays import unpack, vector, vector_record
from fedmesh.flower.records import excerpt
from fedmesh.privacy.summed import SumSettings
from fedmesh.quantization.codec import DeltaCodec, FloatCodec, PacketSum, RangePolicy, dequantize_sum
from fedmesh.types import Float32, Layout
from fedmesh_strategies.private_sum import PrivateSum

__all__ = ["FedAvg", "build"]

POLL_S = 0.1


class FedAvg(Strategy):
    """FedAvg over delta packets.

    Args:
        layout: of the model's arrays.
        ranges: see `RangePolicy`; not used by the codec ``float32``.
        codec: ``integer`` or ``float32`` packets.
        bits: width of an integer, 2 to 16.
        fraction: share of the nodes asked in a round, drawn from `seed` and the round's number.
        quorum: fewest usable packets.
        weighting: ``uniform``, or ``examples`` to weight by the example count that a device then has to reveal.
        seed: of the drawing of nodes.
        server_learning_rate: the weights move by this times the mean delta.
        min_available: a round waits until so many nodes are there, and never for fewer than the quorum.
        patience_s: longest such wait, in seconds of `clock`.
        clock: what the wait is measured on.
        summed: the devices' noise is complete in the secure sum only, which is then needed; see `PrivateSum`.
        noise_seed: see `PrivateSum`.

    Raises:
        ConfigError: a setting is out of range.
    """

    needs = "sum"

    def __init__(
        self,
        *,
        layout: Layout,
        ranges: RangePolicy,
        codec: Literal["integer", "float32"] = "integer",
        bits: int = 8,
        fraction: float = 1.0,
        quorum: int = 1,
        weighting: Literal["uniform", "examples"] = "uniform",
        seed: int = 1,
        server_learning_rate: float = 1.0,
        min_available: int = 1,
        patience_s: float = 60.0,
        clock: Clock | None = None,
        summed: SumSettings | None = None,
        noise_seed: int | None = None,
    ) -> None:
        _check("codec", codec, codec in {"integer", "float32"}, "'integer' or 'float32'")
        _check("fraction", fraction, 0 < fraction <= 1, "a share above 0 and up to 1")
        _check("quorum", quorum, quorum >= 1, "1 or more")
        _check("weighting", weighting, weighting in {"uniform", "examples"}, "'uniform' or 'examples'")
        _check("min_available", min_available, min_available >= 1, "1 or more")
        _check("patience_s", patience_s, patience_s >= 0, "seconds, 0 or more")
        _check("server_learning_rate", server_learning_rate, 0 < server_learning_rate < np.inf, "a positive number")
        self.layout = layout
        self.ranges = ranges
        self.codec = codec
        self.bits = bits
        self.fraction = fraction
        self.quorum = quorum
        self.weighting = weighting
        self.seed = seed
        self.server_learning_rate = server_learning_rate
        self.min_available = min_available
        self.patience_s = patience_s
        self._clock = SystemClock() if clock is None else clock
        self.refused: dict[int, str] = {}
        """Node id -> why its packet was not used in the last round."""
        self._private = None if summed is None else PrivateSum(summed, noise_seed=noise_seed)
        self._weights: Float32 | None = None
        self._codec: DeltaCodec | FloatCodec | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages with the weights, the round's number and its delta ranges, by ascending node id.

        Raises:
            QuorumError: too few nodes were there for too long.
            DecodeError: the arrays are not of this model.
        """
        self._weights = self._flat(arrays)
        sent = config.copy()
        sent["server-round"] = server_round
        sent["delta-ranges"] = self._scales(server_round, self._weights)
        content = RecordDict({"arrays": vector_record("model", self._weights), "config": sent})
        nodes = self.drawn(server_round, self._available(grid))
        return [Message(content, node_id, MessageType.TRAIN, group_id=str(server_round)) for node_id in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weights moved by the mean of the usable packets.

        Raises:
            QuorumError: fewer usable packets than the quorum.
            RoundError: `configure_train` was not called before, or the noise is in the sum: `apply_sum` takes it.
        """
        if self._private is not None:
            raise RoundError(
                "devices whose noise is complete in the sum only do not answer outside a secure sum: run the strategy "
                "under secure aggregation"
            )
        if self._codec is None:
            raise RoundError(f"round {server_round} is aggregated before it was configured")
        self.refused = {}
        total = PacketSum(self._codec, self._codec.packet_bytes)
        used: set[int] = set()
        good = [reply for reply in replies if reply.has_content()]
        for reply in sorted(good, key=lambda reply: reply.metadata.src_node_id):
            node_id = reply.metadata.src_node_id
            if node_id in used:
                continue  # one packet a device
            try:
                total.add(self._packet(reply), self._weight(reply))
                used.add(node_id)
            except DecodeError as error:
                self.refused[node_id] = excerpt(str(error))
        if len(used) < self.quorum:
            raise self._below_quorum(server_round, len(used))
        arrays = self.apply_sum(total.total, total.weight)
        return arrays, MetricRecord({"survivors": len(used), "weight": total.weight})

    def apply_sum(self, total: NDArray[np.int64] | Float32, weight: int) -> ArrayRecord:
        """The round's weights moved by the mean that a sum stands for: all that the rule needs of the devices.

        Args:
            total: sum of weight * codes, int64 [P] (of weight * values, float32 [P], for the codec ``float32``); of a
                private sum the sum of inputs, int64 [length].
            weight: sum of the weights.

        Raises:
            RoundError: the result is not finite, or there is no round.
            DecodeError: the sum is not of this model.
        """
        if self._weights is None:
            raise RoundError("a sum is applied before a round was configured")
        delta = self._mean(total, weight)
        moved = self.move(self._weights, delta)
        if not np.isfinite(moved).all():
            raise RoundError("the new weights are not finite: the round is dropped; lower the learning rate")
        return vector_record("model", moved)

    def move(self, weights: Float32, delta: Float32) -> Float32:
        """The new weights, float32 [P]: the step that a rule of the same kind replaces. `delta` is the mean."""
        return weights + np.float32(self.server_learning_rate) * delta

    def _scales(self, server_round: int, weights: Float32) -> list[float]:
        """What a device has to know to make its integers, from public state."""
        if self._private is not None:
            return self._private.begin(server_round, weights)
        self._codec = self._codec_for(weights)
        return [float(value) for value in self._codec.ranges] if isinstance(self._codec, DeltaCodec) else []

    def _mean(self, total: NDArray[Any], weight: int) -> Float32:
        """The mean change, float32 [P]."""
        if self._private is not None:
            return self._private.step(total, weight)
        if self._codec is None:
            raise RoundError("a sum is applied before a round was configured")
        return self.layout.flatten(dequantize_sum(total, weight, self._codec))

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
        """Says nothing: the scenario is the summary."""

    def snapshot(self) -> dict[str, Any]:
        """The clip of a private sum, nothing else: the weights are the coordinator's, the drawing is the seed's."""
        return {} if self._private is None else self._private.snapshot()

    def restore(self, state: Any) -> None:
        """Forgets a round that was under way. Raises: ConfigError when `state` holds what is not FedAvg's."""
        if set(state) - ({"clip"} if self._private else set()):
            raise ConfigError(f"a state with {sorted(state)} is not one of FedAvg's with these settings")
        if self._private is not None:
            self._private.restore(state)
        self._weights = self._codec = None
        self.refused = {}

    def drawn(self, server_round: int, node_ids: list[int]) -> list[int]:
        """The nodes asked in a round, ascending: the same for the same seed, round and nodes."""
        nodes = sorted(node_ids)
        count = min(len(nodes), max(1, self.quorum, round(self.fraction * len(nodes))))
        if count == len(nodes):
            return nodes
        rng = np.random.default_rng([self.seed, server_round])
        return [nodes[i] for i in sorted(rng.choice(len(nodes), size=count, replace=False))]

    def _available(self, grid: Grid) -> list[int]:
        """The nodes that are there, once they are enough: devices come and go; Flower's register after its start."""
        wanted = max(self.quorum, self.min_available)
        end = self._clock.now() + self.patience_s
        while len(nodes := list(grid.get_node_ids())) < wanted:
            if self._clock.now() >= end:
                raise QuorumError(
                    f"{len(nodes)} nodes were there after {self.patience_s:g} s, the round wants {wanted}: start more "
                    "devices, or lower strategy.quorum",
                    arrived=len(nodes),
                    wanted=wanted,
                )
            self._clock.sleep(POLL_S)
        return nodes

    def _codec_for(self, weights: Float32) -> DeltaCodec | FloatCodec:
        if self.codec == "float32":
            return FloatCodec(self.layout)
        return DeltaCodec(self.layout, self.bits, self.ranges(self.layout.unflatten(weights)))

    def _flat(self, arrays: ArrayRecord) -> Float32:
        return vector(arrays, "model", dtype="float32", max_bytes=4 * self.layout.size)

    def _packet(self, reply: Message) -> bytes:
        records = reply.content.array_records
        if list(records) != ["update"] or list(records["update"]) != ["delta"]:
            raise DecodeError(f"its reply holds the array records {sorted(records)}; wanted 'update' with 'delta'")
        if self._codec is None:
            raise DecodeError("there is no round")
        return unpack(records["update"]["delta"], dtype="uint8", max_bytes=self._codec.packet_bytes).tobytes()

    def _weight(self, reply: Message) -> int:
        if self.weighting == "uniform":
            return 1
        count = reply.content.metric_records.get("metrics", MetricRecord()).get("num-examples")
        if not isinstance(count, int) or isinstance(count, bool):
            raise DecodeError(f"its example count is {count!r}; weighting by examples wants a whole number")
        return count

    def _below_quorum(self, server_round: int, arrived: int) -> QuorumError:
        first = next((f"; node {node} was refused: {why}" for node, why in self.refused.items()), "")
        return QuorumError(
            f"{arrived} usable updates arrived in round {server_round}, the quorum is {self.quorum}: lower "
            f"strategy.quorum, raise strategy.fraction or the deadline{first}",
            arrived=arrived,
            wanted=self.quorum,
        )


def build(**settings: Any) -> FedAvg:
    """The strategy ``fedavg`` from settings: see `FedAvg`.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    try:
        return FedAvg(**settings)
    except TypeError as error:
        raise ConfigError(f"the strategy 'fedavg' does not take these settings: {error}") from error


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigError(f"strategy.{name} is {value!r}, wanted {wanted}")
