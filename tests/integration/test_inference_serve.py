"""The endpoint as a process: real digits, swaps under load, bad models, signals, hostile clients, what it loads."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from installed import install
from served_models import FEATURES, digits, write_constant, write_digits_int8
from serving import Served, predict

from fedmesh.inference import Engine
from fedmesh.inference.probe import golden_set
from fedmesh.registry import Slots
from fedmesh.wire import dumps

X = np.zeros((2, FEATURES), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small int8 model of digits and a bigger, better one."""
    folder = tmp_path_factory.mktemp("digits")
    made = {"small": folder / "small.onnx", "big": folder / "big.onnx"}
    write_digits_int8(made["small"], "small")
    write_digits_int8(made["big"], "big")
    return made


def accuracy(labels: list[int], y: np.ndarray) -> float:
    return float((np.array(labels) == y).mean())


def test_real_digits_over_http_are_those_of_the_engine(models: dict[str, Path]) -> None:
    _, _, x, y = digits()
    wanted = Engine(models["big"]).predict(x)
    with Served("--model", str(models["big"])) as served:
        assert json.loads(served.get("/readyz")[1])["checks"] == {"model": "ok"}
        found = [one for start in range(0, len(x), 200) for one in served.predict(x[start : start + 200])]
        assert [one["label"] for one in found] == [one.label for one in wanted]
        np.testing.assert_array_equal([one["confidence"] for one in found], [one.confidence for one in wanted])
        assert accuracy([one["label"] for one in found], y) > 0.9
        connection = served.connection()
        for kind, body in (
            ("application/json", json.dumps({"x": x[:5].tolist()})),
            ("application/octet-stream", x[:5].astype("<f4").tobytes()),
        ):
            connection.request("POST", "/predict", body, {"Content-Type": kind})
            answer = json.loads(connection.getresponse().read())
            assert [one["label"] for one in answer["predictions"]] == [one.label for one in wanted[:5]]
        connection.close()
        assert served.metric("fedmesh_inference_seconds_count") == -(-len(x) // 200) + 2
        assert served.stop() == 0


def test_swaps_under_load_drop_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "models" / "slots")
    digests = {write_constant(tmp_path / "new", 0): 0}
    install(slots, (tmp_path / "new").read_bytes())
    with Served("--slots", str(tmp_path / "models")) as served:
        stop, counts, seen = threading.Event(), [0, 0, 0], set()

        def hammer(index: int) -> None:
            connection = served.connection()
            while not stop.is_set():
                for one in predict(connection, X):
                    seen.add((one["model"], one["label"]))
                counts[index] += 1
            connection.close()

        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(hammer, index) for index in range(3)]
            for number in range(1, 6):
                digests[write_constant(tmp_path / "new", number % 5)] = number % 5
                install(slots, (tmp_path / "new").read_bytes())
                wait_until(
                    lambda number=number: served.metric('fedmesh_inference_swaps_total{result="swapped"}') > number
                )
            stop.set()
            for one in running:
                one.result()
        assert min(counts) > 0
        assert {digests[model] for model, _ in seen} == set(digests.values())
        assert all(digests[model] == label for model, label in seen)
        total = served.metric('fedmesh_inference_requests_total{status="200"}')
        assert total == sum(counts) == served.metric("fedmesh_inference_seconds_count")
        assert served.stop() == 0


def test_bad_models_never_stay(tmp_path: Path) -> None:
    good = write_constant(tmp_path / "good.onnx", 3)
    nan = write_constant(tmp_path / "nan.onnx", 1, logit=float("nan"))
    write_constant(tmp_path / "other.onnx", 2)
    golden = golden_set(Engine(tmp_path / "good.onnx"), X)
    slots = Slots(tmp_path / "slots")
    with Served("--slots", str(slots.folder)) as served:
        assert served.get("/healthz")[0] == 200
        assert served.get("/readyz")[0] == 503
        install(slots, (tmp_path / "good.onnx").read_bytes())
        wait_until(lambda: served.get("/readyz")[0] == 200)
        for number, data in enumerate([b"junk" * 100, (tmp_path / "other.onnx").read_bytes()], 1):
            install(slots, data, golden=golden)
            wait_until(lambda number=number: served.metric('fedmesh_inference_swaps_total{result="refused"}') == number)
            assert served.predict(X)[0]["model"] == good
        install(slots, (tmp_path / "nan.onnx").read_bytes())
        wait_until(lambda: served.metric('fedmesh_inference_swaps_total{result="swapped"}') == 2)
        assert served.metric(f'fedmesh_inference_model_info{{sha256="{nan}"}}') == 1
        assert [one["model"] for one in served.predict(X)] == [good, good]
        wait_until(lambda: served.metric('fedmesh_inference_swaps_total{result="rolled_back"}') == 1)
        assert served.metric(f'fedmesh_inference_model_info{{sha256="{good}"}}') == 1
        assert served.stop() == 0
        assert any("golden" in line for line in served.lines)
        assert any("back to the model" in line and "not finite" in line for line in served.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_began_is_answered_after_the_signal(tmp_path: Path, number: signal.Signals) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    body = dumps({"x": X})
    with Served("--model", str(tmp_path / "m.onnx")) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as begun:
            head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/cbor\r\n"
            begun.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
            served.get("/healthz")  # what was sent before this was answered has arrived
            served.process.send_signal(number)
            wait_until(lambda: refuses(served.port))
            begun.sendall(body[5:])
            answer = http.client.HTTPResponse(begun)
            answer.begin()
            assert answer.status == 200
            assert json.loads(answer.read())["predictions"][0]["label"] == 1
        assert served.process.wait(120) == 0
        served._reader.join(60)
        assert served.lines[-1].startswith("Stopped")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_clients_that_are_slow_or_rude(tmp_path: Path) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    with Served("--model", str(tmp_path / "m.onnx")) as served:
        for data in (
            b"\x16\x03\x01junk\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ):
            with (
                socket.create_connection(("127.0.0.1", served.port), timeout=60) as rude,
                contextlib.suppress(ConnectionError),  # it may be hung up on before it has said it all
            ):
                rude.sendall(data)
                assert b" 500 " not in rude.recv(1 << 16)
        half = socket.create_connection(("127.0.0.1", served.port), timeout=60)
        half.sendall(b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        half.close()
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as slow:
            slow.sendall(b"GET /healthz HT")
            assert slow.recv(100) == b""  # a head that does not end is not waited for
            assert time.monotonic() - begin > 3
        assert served.predict(X)[0]["label"] == 1
        assert served.stop() == 0


def test_neither_torch_nor_flwr_is_loaded(tmp_path: Path) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    program = f"""
import json, os, signal, sys, threading, time, urllib.request
from fedmesh.cli import main
from fedmesh.inference.serving import server
original = server._Server.startup
async def startup(self, sockets=None):
    await original(self, sockets)
    threading.Thread(target=ask, args=(sockets[0].getsockname()[1],)).start()
def ask(port):
    body = json.dumps({{"x": [[0, 0, 0, 0]]}}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{{port}}/predict", body, {{"Content-Type": "application/json"}})
    urllib.request.urlopen(asked).read()
    urllib.request.urlopen(f"http://127.0.0.1:{{port}}/metrics").read()
    print(json.dumps(sorted(sys.modules)))
    os.kill(os.getpid(), signal.SIGTERM)
server._Server.startup = startup
sys.exit(main(["infer", "--serve", "--model", {str(tmp_path / "m.onnx")!r}, "--listen", "127.0.0.1:0"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)} | set(json.loads(done.stdout))
    assert {"onnxruntime", "fastapi", "uvicorn"} <= loaded
    assert not loaded & {"torch", "flwr", "opacus", "onnx", "sklearn", "zeroconf", "paho", "tuf", "rich"}
    # What costs megabytes and is needed for TLS or for drawing alone (docs/inference.md).
    assert not loaded & {"cryptography", "fedmesh.identity", "numpy.random", "pydantic.v1"}


def wait_until(holds, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
