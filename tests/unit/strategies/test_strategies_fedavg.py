from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedmesh import plugins
from fedmesh.coordinator import Coordinator, Journal
from fedmesh.errors import ConfigError, DecodeError, QuorumError, RoundError
from fedmesh.flower import FleetGrid, InlineFleet, adopt, fold, unfold
from fedmesh.flower.arrays import pack, vector, vector_record
from fedmesh.quantization.codec import DeltaCodec, FloatCodec, constant_ranges, relative_ranges
from fedmesh.types import Float32
from fedmesh_strategies.fedavg import FedAvg, build

START = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
RANGES = np.float32([0.5, 0.25])


def grid(*nodes: int) -> Grid:
    adopt(7)
    return cast("Grid", SimpleNamespace(get_node_ids=lambda: list(nodes)))


def strategy(**options: Any) -> FedAvg:
    return FedAvg(**{"layout": LAYOUT, "ranges": constant_ranges(RANGES), **options})


def configured(rule: FedAvg, nodes: Sequence[int] = (2, 3, 4), number: int = 1) -> list[Message]:
    return list(rule.configure_train(number, vector_record("model", START), ConfigRecord({"lr": 0.5}), grid(*nodes)))


def reply(message: Message, packet: bytes, examples: object = None) -> Message:
    content = RecordDict({"update": vector_record("delta", np.frombuffer(packet, np.uint8))})
    if examples is not None:
        content["metrics"] = MetricRecord({"num-examples": examples})  # type: ignore[dict-item]
    return Message(content, reply_to=message)


def packets(count: int, bits: int = 8) -> tuple[DeltaCodec, list[bytes]]:
    codec, rng = DeltaCodec(LAYOUT, bits, RANGES), np.random.default_rng(0)
    return codec, [codec.encode_vector(rng.normal(0, 0.1, LAYOUT.size).astype(np.float32), rng) for _ in range(count)]


def weights(arrays: ArrayRecord | None) -> Float32:
    assert arrays is not None
    found: Float32 = vector(arrays, "model", dtype="float32", max_bytes=4 * LAYOUT.size)
    return found


def test_messages_carry_the_weights_the_round_and_the_ranges() -> None:
    messages = [unfold(fold(m)) for m in configured(strategy(), nodes=(4, 2, 3), number=5)]
    assert [m.metadata.dst_node_id for m in messages] == [2, 3, 4]
    content = messages[0].content
    assert set(content) == {"arrays", "config"}
    assert content["arrays"]["model"].numpy().tobytes() == START.tobytes()
    assert dict(content["config"]) == {"lr": 0.5, "server-round": 5, "delta-ranges": RANGES.tolist()}
    assert messages[0].metadata.message_type == "train"


def test_the_mean_is_that_of_the_packets_integers() -> None:
    rule = strategy()
    messages = configured(rule)
    codec, sent = packets(3)
    arrays, metrics = rule.aggregate_train(1, [reply(m, p) for m, p in zip(messages, sent, strict=True)])
    integers = sum(codec.decode_integers(p, max_bytes=100).astype(np.int64) for p in sent)
    expected = START + (integers.astype(np.float32) * codec.scale_vector) / np.float32(3)
    assert weights(arrays).tobytes() == expected.tobytes()
    assert metrics == MetricRecord({"survivors": 3, "weight": 3})


def test_the_order_of_arrival_does_not_matter() -> None:
    for codec in ("integer", "float32"):
        results = set()
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
            rule = strategy(codec=codec)
            messages = configured(rule, nodes=(2, 3, 4, 5))
            _, sent = packets(4)
            if codec == "float32":
                rng = np.random.default_rng(0)
                deltas = rng.normal(size=(4, LAYOUT.size)).astype(np.float32)
                sent = [FloatCodec(LAYOUT).encode_vector(d, rng) for d in deltas]
            replies = [reply(messages[i], sent[i]) for i in order]
            results.add(weights(rule.aggregate_train(1, replies)[0]).tobytes())
        assert len(results) == 1


def test_weighting_by_examples_multiplies_after_quantization() -> None:
    rule = strategy(weighting="examples")
    messages = configured(rule)
    codec, sent = packets(3)
    arrays, metrics = rule.aggregate_train(
        1, [reply(m, p, n) for m, p, n in zip(messages, sent, (1, 2, 5), strict=True)]
    )
    integers = [codec.decode_integers(p, max_bytes=100).astype(np.int64) for p in sent]
    total = integers[0] + 2 * integers[1] + 5 * integers[2]
    expected = START + (total.astype(np.float32) * codec.scale_vector) / np.float32(8)
    assert weights(arrays).tobytes() == expected.tobytes()
    assert metrics is not None
    assert metrics["weight"] == 8


def test_uniform_weighting_does_not_look_at_counts() -> None:
    rule = strategy()
    messages = configured(rule)
    _, sent = packets(3)
    replies = [reply(m, p, n) for m, p, n in zip(messages, sent, (1, 100, -7), strict=True)]
    _, metrics = rule.aggregate_train(1, replies)
    assert metrics == MetricRecord({"survivors": 3, "weight": 3})


def test_of_what_a_hostile_reply_says_little_is_quoted() -> None:
    rule = strategy()
    messages = configured(rule)
    _, (packet, *_) = packets(1)
    named = RecordDict({"\x1b[2J" + "x" * 100_000: vector_record("delta", np.zeros(1, np.uint8))})
    rule.aggregate_train(1, [reply(messages[0], packet), Message(named, reply_to=messages[1])])
    (reason,) = rule.refused.values()
    assert reason.isprintable()
    assert len(reason) <= 500


def test_the_servers_learning_rate_scales_the_step() -> None:
    moved = []
    for rate in (1.0, 0.5):
        rule = strategy(server_learning_rate=rate)
        messages = configured(rule)
        _, sent = packets(3)
        arrays, _ = rule.aggregate_train(1, [reply(m, p) for m, p in zip(messages, sent, strict=True)])
        moved.append(weights(arrays) - START)
    assert moved[1] == pytest.approx(moved[0] / 2, abs=1e-6)


def hostile() -> dict[str, Callable[[Message, bytes], Message]]:
    def with_content(content: RecordDict) -> Callable[[Message, bytes], Message]:
        return lambda message, packet: Message(content, reply_to=message)

    other_ranges = DeltaCodec(LAYOUT, 8, RANGES * 2).encode_vector(
        np.zeros(LAYOUT.size, np.float32), np.random.default_rng()
    )
    wide = DeltaCodec(LAYOUT, 16, RANGES).encode_vector(np.zeros(LAYOUT.size, np.float32), np.random.default_rng())
    return {
        "empty": with_content(RecordDict()),
        "no packet": with_content(RecordDict({"update": ArrayRecord()})),
        "two arrays": with_content(RecordDict({"update": ArrayRecord([np.zeros(3), np.zeros(3)])})),
        "another name": with_content(RecordDict({"arrays": vector_record("delta", np.zeros(3, np.uint8))})),
        "floats": with_content(RecordDict({"update": vector_record("delta", np.zeros(12, np.float32))})),
        "pickle": with_content(RecordDict({"update": ArrayRecord({"delta": Array("uint8", (3,), "pickle", b"cos")})})),
        "truncated": lambda message, packet: reply(message, packet[:-1]),
        "longer": lambda message, packet: reply(message, packet + b"\0"),
        "huge": lambda message, packet: reply(message, bytes(10_000_000)),
        "other ranges": lambda message, packet: reply(message, other_ranges),
        "other width": lambda message, packet: reply(message, wide),
    }


@pytest.mark.parametrize("kind", hostile())
def test_a_malformed_packet_costs_its_device_only(kind: str) -> None:
    rule = strategy(quorum=2)
    messages = configured(rule)
    _, sent = packets(3)
    honest = [reply(messages[0], sent[0]), reply(messages[2], sent[2])]
    arrays, metrics = rule.aggregate_train(1, [hostile()[kind](messages[1], sent[1]), *honest])
    assert list(rule.refused) == [3]
    assert metrics == MetricRecord({"survivors": 2, "weight": 2})
    configured(rule)
    alone, _ = rule.aggregate_train(1, honest)
    assert weights(arrays).tobytes() == weights(alone).tobytes()
    assert rule.refused == {}


@pytest.mark.parametrize("count", [None, 0, -3, 2**40, 2.5])
def test_an_impossible_example_count_costs_its_device_only(count: object) -> None:
    rule = strategy(weighting="examples")
    messages = configured(rule)
    _, sent = packets(2)
    rule.aggregate_train(1, [reply(messages[0], sent[0], 3), reply(messages[1], sent[1], count)])
    assert list(rule.refused) == [3]


def test_a_device_counts_once() -> None:
    rule = strategy()
    messages = configured(rule)
    _, sent = packets(2)
    _, metrics = rule.aggregate_train(1, [reply(messages[0], sent[0]), reply(messages[0], sent[1])])
    assert metrics == MetricRecord({"survivors": 1, "weight": 1})


def test_below_the_quorum_the_round_fails_and_says_why() -> None:
    rule = strategy(quorum=2)
    messages = configured(rule)
    _, sent = packets(3)
    with pytest.raises(
        QuorumError, match=r"1 usable updates arrived in round 4, the quorum is 2.*node 3 was refused"
    ) as caught:
        rule.aggregate_train(4, [reply(messages[0], sent[0]), reply(messages[1], b"nonsense")])
    assert (caught.value.arrived, caught.value.wanted) == (1, 2)


def test_weights_that_are_not_finite_fail_the_round() -> None:
    rule = strategy(codec="float32")
    messages = configured(rule)
    largest = np.full(LAYOUT.size, 3.4e38, np.float32)
    packet = FloatCodec(LAYOUT).encode_vector(largest, np.random.default_rng())
    with np.errstate(over="ignore"), pytest.raises(RoundError, match="not finite"):
        rule.aggregate_train(1, [reply(m, packet) for m in messages])


def test_nothing_is_aggregated_before_a_round() -> None:
    with pytest.raises(RoundError, match="before it was configured"):
        strategy().aggregate_train(1, [])
    with pytest.raises(RoundError, match="before a round"):
        strategy().apply_sum(np.zeros(LAYOUT.size, np.int64), 1)


def test_a_sum_alone_makes_the_same_step() -> None:
    """What secure aggregation will hand over in place of the packets."""
    rule = strategy()
    messages = configured(rule)
    codec, sent = packets(3)
    each, _ = rule.aggregate_train(1, [reply(m, p) for m, p in zip(messages, sent, strict=True)])
    total = np.sum([codec.decode_integers(p, max_bytes=100) for p in sent], axis=0, dtype=np.int64)
    assert weights(rule.apply_sum(total, 3)).tobytes() == weights(each).tobytes()
    with pytest.raises(DecodeError):
        rule.apply_sum(total[1:], 3)


def test_the_drawing_depends_on_seed_round_and_nodes_alone() -> None:
    nodes = list(range(2, 102))
    rule = strategy(fraction=0.1, seed=3)
    drawn = [rule.drawn(number, nodes) for number in range(1, 200)]
    assert drawn == [strategy(fraction=0.1, seed=3).drawn(n, nodes[::-1]) for n in range(1, 200)]
    assert all(len(set(d)) == 10 and d == sorted(d) for d in drawn)
    assert drawn != [strategy(fraction=0.1, seed=4).drawn(n, nodes) for n in range(1, 200)]
    counts = np.bincount(np.concatenate(drawn), minlength=102)[2:]
    assert counts.min() > 5
    assert counts.max() < 40


class Arriving:
    """A clock, and a grid on which another node arrives with every second that is slept."""

    def __init__(self) -> None:
        self.slept = 0.0
        adopt(7)

    def now(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def get_node_ids(self) -> list[int]:
        return list(range(2, 2 + int(self.slept)))


def test_a_round_waits_until_enough_nodes_are_there() -> None:
    arriving = Arriving()
    rule = strategy(min_available=3, quorum=2, clock=arriving)
    start = vector_record("model", START)
    messages = list(rule.configure_train(1, start, ConfigRecord(), cast("Grid", arriving)))
    assert [m.metadata.dst_node_id for m in messages] == [2, 3, 4]
    impatient = strategy(quorum=9, patience_s=2.0, clock=Arriving())
    with pytest.raises(QuorumError, match="wants 9: start more devices"):
        impatient.configure_train(1, start, ConfigRecord(), cast("Grid", Arriving()))


@pytest.mark.parametrize(
    ("fraction", "quorum", "nodes", "asked"),
    [(0.1, 1, 4, 1), (0.5, 1, 3, 2), (0.1, 3, 10, 3), (1.0, 1, 5, 5), (0.5, 9, 4, 4)],
)
def test_the_number_of_devices_asked(fraction: float, quorum: int, nodes: int, asked: int) -> None:
    assert len(strategy(fraction=fraction, quorum=quorum).drawn(1, list(range(2, 2 + nodes)))) == asked


def test_the_ranges_of_a_round_follow_its_weights() -> None:
    rule = strategy(ranges=relative_ranges(0.5))
    (message,) = configured(rule, nodes=(2,))
    tensors = LAYOUT.unflatten(START)
    assert message.content["config"]["delta-ranges"] == pytest.approx([0.5 * np.abs(t).max() for t in tensors.values()])


def test_arrays_of_another_model_are_refused() -> None:
    with pytest.raises(DecodeError):
        list(strategy().configure_train(1, ArrayRecord([START]), ConfigRecord(), grid(2)))
    with pytest.raises(DecodeError):
        list(strategy().configure_train(1, vector_record("model", START[1:]), ConfigRecord(), grid(2)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", 0.0),
        ("fraction", 1.5),
        ("quorum", 0),
        ("codec", "int8"),
        ("weighting", "loss"),
        ("min_available", 0),
        ("patience_s", -1.0),
        ("server_learning_rate", float("nan")),
        ("server_learning_rate", -1.0),
    ],
)
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        strategy(**{key: value})


def test_it_is_found_by_its_entry_point_and_refuses_unknown_settings() -> None:
    assert plugins.load(plugins.STRATEGIES, "fedavg") is build
    assert build(layout=LAYOUT, ranges=constant_ranges(RANGES)).needs == "sum"
    with pytest.raises(ConfigError, match="momentum"):
        build(layout=LAYOUT, ranges=constant_ranges(RANGES), momentum=0.5)


def test_it_evaluates_nothing_and_keeps_no_state() -> None:
    rule = strategy()
    assert list(rule.configure_evaluate(1, vector_record("model", START), ConfigRecord(), grid(2))) == []
    assert rule.aggregate_evaluate(1, []) is None
    configured(rule)
    assert rule.snapshot() == {}
    rule.restore({})
    with pytest.raises(RoundError):
        rule.aggregate_train(1, [])
    with pytest.raises(ConfigError):
        rule.restore({"momentum": 1})
    rule.summary()


@pytest.mark.parametrize("bits", [2, 8, 16, None])
def test_a_federation_converges_to_the_mean_of_its_devices(bits: int | None) -> None:
    """Devices pull towards 0, 0.1, 0.2 and 0.3; the mean is 0.15."""
    codec: dict[str, Any] = {"codec": "float32"} if bits is None else {"bits": bits}
    rule = FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5), **codec)
    start = vector_record("model", START)
    run = Coordinator(rule, FleetGrid(InlineFleet(delta_app(bits), 4)), Journal()).run(start, 60)
    assert weights(run.arrays) == pytest.approx(0.15, abs=0.1 if bits == 2 else 0.01)


def test_it_runs_in_flowers_own_loop_too() -> None:
    rule = strategy()
    result = rule.start(FleetGrid(InlineFleet(delta_app(), 4)), vector_record("model", START), num_rounds=2)
    again = strategy().start(FleetGrid(InlineFleet(delta_app(), 4)), vector_record("model", START), num_rounds=2)
    assert weights(result.arrays).tobytes() == weights(again.arrays).tobytes()
    assert result.train_metrics_clientapp[2]["survivors"] == 4


def test_pack_takes_any_layout_in_memory() -> None:
    assert pack(np.arange(8)[::2]).numpy().tolist() == [0, 2, 4, 6]
