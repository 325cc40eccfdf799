"""The four paths: predictions, liveness, readiness, metrics; and what is said where there are none."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi import ask
from prometheus_client import CollectorRegistry
from served_models import FEATURES, write_constant

from fedmesh.errors import PeerError
from fedmesh.inference import Confident, LiveModel, Prediction
from fedmesh.inference.handoff import CBOR, HANDED_OFF
from fedmesh.inference.metrics import InferenceCollector
from fedmesh.inference.serving import Limits, Service, build, listener
from fedmesh.wire import dumps, loads

X = np.zeros((2, FEATURES), np.float32)
BODY = json.dumps({"x": X.tolist()}).encode()


class Big:
    """Says 4."""

    def __init__(self) -> None:
        self.away = False

    def predict(self, x: np.ndarray) -> list[Prediction]:
        if self.away:
            raise PeerError("away")
        return [Prediction(4, 1.0, "b" * 64, 0.1) for _ in x]


class Node:
    """An application and what is in it."""

    def __init__(self, **options: Any) -> None:
        self.live = LiveModel()
        self.big = Big()
        self.confident = Confident(self.live, self.big, threshold=options.pop("threshold", 0))
        self.service = Service(self.live, confident=self.confident, **options)
        registry = CollectorRegistry()
        registry.register(InferenceCollector(self.live, requests=self.service.counts))
        self.app = build(self.service, registry)

    def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
        status, answer_headers, answer = asyncio.run(ask(self.app, method, path, body, **headers))
        plain = answer_headers.get("content-type") == "application/json"
        return status, answer_headers, json.loads(answer) if plain else answer

    def predict(self, body: Any = BODY, content_type: str = "application/json", **headers: str) -> tuple[int, Any]:
        status, _, answer = self.ask("POST", "/predict", body, content_type=content_type, **headers)
        return status, answer


@pytest.fixture
def digest(tmp_path: Path) -> str:
    return write_constant(tmp_path / "m.onnx", 2)


@pytest.fixture
def make(tmp_path: Path, digest: str) -> Iterator[Any]:
    made: list[Node] = []

    def node(*, loaded: bool = True, **options: Any) -> Node:
        made.append(Node(**options))
        if loaded:
            made[-1].live.swap(tmp_path / "m.onnx")
        return made[-1]

    yield node
    for one in made:
        one.service.close()


def test_predictions(make: Any, digest: str) -> None:
    status, answer = make().predict()
    assert status == 200
    assert [one["label"] for one in answer["predictions"]] == [2, 2]
    assert {one["model"] for one in answer["predictions"]} == {digest}
    assert {one["handoff"] for one in answer["predictions"]} == {"none"}


def test_cbor_both_ways(make: Any) -> None:
    status, headers, answer = make().ask("POST", "/predict", dumps({"x": X}), content_type=CBOR, accept=CBOR)
    assert (status, headers["content-type"]) == (200, CBOR)
    assert [one["label"] for one in loads(answer, max_bytes=10_000)["predictions"]] == [2, 2]


def test_refusals_are_told_and_counted(make: Any) -> None:
    node = make()
    status, answer = node.predict(b"{")
    assert status == 400
    assert set(answer) == {"got", "wanted", "do"}
    assert node.predict(content_type="text/plain")[0] == 415
    assert node.predict()[0] == 200
    assert node.service.counts == {"400": 1, "415": 1, "200": 1}
    assert 'fedmesh_inference_requests_total{status="415"} 1.0' in node.ask("GET", "/metrics")[2].decode()


def test_a_body_that_is_too_long(make: Any) -> None:
    node = make(limits=Limits(body_bytes=1000))
    status, headers, answer = node.ask("POST", "/predict", b"", content_type="application/json", content_length="1001")
    assert status == 413
    assert headers["connection"] == "close"
    assert answer["got"] == "1001 bytes"
    assert node.predict([b"x" * 600, b"x" * 600])[0] == 413  # whose length was not announced


def test_a_body_that_does_not_come(make: Any) -> None:
    node = make(limits=Limits(body_s=0.05))

    async def stalled() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "headers": [],
            "query_string": b"",
            "root_path": "",
        }
        await node.app(scope, receive, send)
        return sent

    assert asyncio.run(stalled())[0]["status"] == 408


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_answers_are_sent_at_once(host: str) -> None:
    with listener(host, 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle's algorithm on: 44 ms an answer, not 2


def test_no_more_at_once_than_allowed(make: Any) -> None:
    node = make(limits=Limits(at_once=2), threshold=1.0)
    go, asked = threading.Event(), threading.Semaphore(0)

    def slow(x: np.ndarray) -> list[Prediction]:
        asked.release()
        assert go.wait(120)
        return [Prediction(4, 1.0, "b" * 64, 0.1) for _ in x]

    node.big.predict = slow

    async def three() -> list[int]:
        def one() -> Any:
            return asyncio.create_task(ask(node.app, "POST", "/predict", BODY, content_type="application/json"))

        first = [one(), one()]
        for _ in first:
            assert await asyncio.to_thread(asked.acquire, timeout=120)
        status, headers, answer = await one()
        assert headers["retry-after"] == "1"
        assert "at most 2" in json.loads(answer)["wanted"]
        go.set()
        return [status, *[found[0] for found in await asyncio.gather(*first)]]

    assert asyncio.run(three()) == [503, 200, 200]
    assert node.predict()[0] == 200


def test_hand_off(make: Any) -> None:
    node = make(threshold=1.0)
    assert [one["label"] for one in node.predict()[1]["predictions"]] == [4, 4]
    answer = node.predict(**{HANDED_OFF.replace("-", "_"): "1"})[1]  # what was handed off is not handed on
    assert [one["label"] for one in answer["predictions"]] == [2, 2]
    node.big.away = True
    status, answer = node.predict()
    assert status == 200
    assert [(one["label"], one["handoff"]) for one in answer["predictions"]] == [(2, "failed"), (2, "failed")]


def test_alive_before_ready(make: Any, tmp_path: Path) -> None:
    node = make(loaded=False, checks={"broker": lambda: ""})
    assert node.ask("GET", "/healthz")[0] == 200
    status, _, answer = node.ask("GET", "/readyz")
    assert status == 503
    assert answer == {"status": "not ready", "checks": {"model": "no model is loaded", "broker": "ok"}}
    assert node.predict()[0] == 503
    node.live.swap(tmp_path / "m.onnx")
    assert node.ask("GET", "/readyz")[0] == 200
    assert node.predict()[0] == 200


def test_checks_of_others(make: Any) -> None:
    reasons = {"broker": "no broker answers"}
    node = make(checks={"broker": lambda: reasons["broker"]})
    assert node.ask("GET", "/readyz")[2]["checks"] == {"model": "ok", "broker": "no broker answers"}
    reasons["broker"] = ""
    assert node.ask("GET", "/readyz")[0] == 200


def test_a_model_that_fails(make: Any, tmp_path: Path) -> None:
    node = make(loaded=False)
    node.live._check = lambda _engine: None
    write_constant(tmp_path / "nan.onnx", 1, logit=float("nan"))
    node.live.swap(tmp_path / "nan.onnx")
    status, answer = node.predict()
    assert status == 500
    assert "fails" in answer["got"]
    assert str(tmp_path) not in json.dumps(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/", 404), ("GET", "/docs", 404)]
)
def test_what_is_not_there(make: Any, method: str, path: str, status: int) -> None:
    got, _, answer = make().ask(method, path)
    assert got == status
    assert set(answer) == {"got", "wanted", "do"}
