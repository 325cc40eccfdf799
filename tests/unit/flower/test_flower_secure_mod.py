"""The mod around a foreign ClientApp: the right sum comes out of it, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from secure_flower import SecureServer, overheard

from fedmesh.client.home import SimulatedHomes
from fedmesh.errors import SecAggError
from fedmesh.flower import InlineFleet, SecAggMod, Terms
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.secure import Order
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.secagg import MetricCodec
from fedmesh.types import Float32
from fedmesh_clients.secure import HomeCredentials

RANGES = [0.5, 0.25]
WEIGHTS: Float32 = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
TERMS = Terms("foreign", LAYOUT)


def secured(folder: Path, terms: Terms = TERMS, inner: ClientApp | None = None) -> ClientApp:
    mod = SecAggMod(HomeCredentials(SimulatedHomes(identities=folder)), terms)
    app = ClientApp(mods=[mod])
    app.query("secagg")(mod.steps)
    plain = delta_app() if inner is None else inner

    @app.train()
    def train(message: Message, context: Context) -> Message:
        assert sorted(message.content) == ["arrays", "config"]
        return plain(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        raise AssertionError("the mod lets nobody evaluate")

    return app


def server(folder: Path, terms: Terms = TERMS, inner: ClientApp | None = None, nodes: int = 5) -> SecureServer:
    return SecureServer(InlineFleet(secured(folder, terms, inner), nodes), folder, terms, RANGES)


def codes_of(device: int, number: int = 1) -> np.ndarray:
    """What `delta_app` quantizes."""
    delta = (np.float32(device / 10) - WEIGHTS) * np.float32(0.1)
    return DeltaCodec(LAYOUT, 8, RANGES).quantize(delta, np.random.default_rng([device, number])).astype(np.int64)


def test_the_sum_is_that_of_the_apps_codes(tmp_path: Path) -> None:
    result = server(tmp_path).round(1, WEIGHTS)
    assert result.total.tolist() == sum(codes_of(device) for device in range(5)).tolist()
    assert result.weight == 5


def test_it_is_weighted_by_the_count_that_does_not_leave(tmp_path: Path) -> None:
    weighted = server(tmp_path, Terms("foreign", LAYOUT, weight_cap=3))
    result = weighted.round(1, WEIGHTS)
    weights = [min(device + 1, 3) for device in range(5)]
    assert result.weight == sum(weights)
    assert result.total.tolist() == sum(w * codes_of(d) for d, w in enumerate(weights)).tolist()


def test_of_the_reply_only_the_masked_codes_leave(tmp_path: Path) -> None:
    asked = server(tmp_path)
    asked.round(1, WEIGHTS)
    assert len(asked.replies) == 25
    for reply in asked.replies:
        assert list(reply.content) == ["secagg"]
        assert list(reply.content["secagg"]) == ["message"]


def test_metrics_of_the_app_can_ride_in_the_sum(tmp_path: Path) -> None:
    terms = Terms("foreign", LAYOUT, reported=("num-examples",))
    result = server(tmp_path, terms).round(1, WEIGHTS)
    decoded = MetricCodec(terms.reported, terms.bits).decode(result.total[LAYOUT.size :], result.weight)
    assert decoded == {"num-examples": 3.0}


def test_devices_that_are_lost_are_not_in_the_sum(tmp_path: Path) -> None:
    asked = server(tmp_path, nodes=7)
    asked.lose = {"share": [1], "sign": [2]}
    result = asked.round(1, WEIGHTS)
    assert result.survivors == tuple(f"device-{d}" for d in (0, 2, 3, 4, 5, 6))
    assert result.total.tolist() == sum(codes_of(d) for d in (0, 2, 3, 4, 5, 6)).tolist()


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.other", "train.other"])
def test_nothing_is_answered_in_the_clear(tmp_path: Path, kind: str) -> None:
    asked = server(tmp_path)
    for name in ("query", "other"):
        asked.fleet._app.query("default" if name == "query" else name)(lambda message, context: message)
    asked.fleet._app.train("other")(lambda message, context: message)
    reply = asked.grid.send_and_receive([Message(RecordDict(), 2, kind)])[0]
    assert "inside a secure sum only" in reply.error.reason


def test_training_without_a_session_is_refused_before_the_app_runs(tmp_path: Path) -> None:
    asked = server(tmp_path)
    content = asked.content(1, "train", Order("train"), WEIGHTS)
    del content["secagg"]
    reply = asked.grid.send_and_receive([Message(content, 2, "train")])[0]
    assert "inside a secure sum only" in reply.error.reason


def replying(content: RecordDict) -> ClientApp:
    app = ClientApp()
    app.train()(lambda message, context: Message(content, reply_to=message))
    return app


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (RecordDict(), "one packet"),
        (RecordDict({"update": vector_record("delta", np.zeros(47, np.uint8))}), "magic"),
        (RecordDict({"update": vector_record("other", np.zeros(47, np.uint8))}), "'delta'"),
        (RecordDict({"update": vector_record("delta", np.zeros(4, np.float32))}), "wanted"),
    ],
)
def test_an_app_that_answers_something_else_falls_out(tmp_path: Path, content: RecordDict, wanted: str) -> None:
    asked = server(tmp_path, inner=replying(content))
    with pytest.raises(SecAggError):
        asked.round(1, WEIGHTS)
    assert all(wanted in text for text in asked.refusals["train"].values())
    assert len(asked.refusals["train"]) == 5


def test_an_error_of_the_app_does_not_tell_what_it_says(tmp_path: Path) -> None:
    inner = ClientApp()
    inner.train()(lambda message, context: Message(Error(code=0, reason="loss 4321"), reply_to=message))
    asked = server(tmp_path, inner=inner)
    with pytest.raises(SecAggError):
        asked.round(1, WEIGHTS)
    assert len(asked.refusals["train"]) == 5
    assert not any("4321" in text for text in asked.refusals["train"].values())


def test_an_exception_of_the_app_is_told_by_its_kind_only(tmp_path: Path) -> None:
    """Flower's own nodes send the text of what was raised; in a simulation ours add its cause, for whoever looks on."""
    raised: list[Exception] = []
    inner = ClientApp()

    @inner.train()
    def train(message: Message, context: Context) -> Message:
        raise ValueError("loss 4321")

    app = overheard(secured(tmp_path, inner=inner), raised)
    asked = SecureServer(InlineFleet(app, 5), tmp_path, TERMS, RANGES)
    with pytest.raises(SecAggError):
        asked.round(1, WEIGHTS)
    assert [type(error) for error in raised] == [SecAggError] * 5
    assert all("ValueError" in str(error) and "4321" not in str(error) for error in raised)
    assert all("ValueError: loss 4321" in text for text in asked.refusals["train"].values())


def test_a_count_that_is_none_is_not_told(tmp_path: Path) -> None:
    packet = np.frombuffer(DeltaCodec(LAYOUT, 8, RANGES).pack(np.zeros(15, np.int8)), np.uint8)
    content = RecordDict({"update": vector_record("delta", packet), "metrics": MetricRecord({"num-examples": 4321.5})})
    asked = server(tmp_path, Terms("foreign", LAYOUT, weight_cap=3), replying(content))
    with pytest.raises(SecAggError):
        asked.round(1, WEIGHTS)
    assert all("num-examples" in text and "4321" not in text for text in asked.refusals["train"].values())
