"""``fedmesh infer --serve`` as a process, and requests to it."""

import http.client
import json
import signal
import ssl
import threading
from typing import Any

import numpy as np
from small_runs import start

from fedmesh.inference.handoff import CBOR
from fedmesh.wire import dumps

STARTED = "Predictions at "


class Served:
    """One endpoint. `lines` is what it said on stderr so far."""

    def __init__(self, *options: str) -> None:
        self.process = start(["infer", "--serve", "--listen", "127.0.0.1:0", *options])
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(120), self.lines
        line = next((line for line in self.lines if line.startswith(STARTED)), None)
        assert line is not None, self.lines
        self.url = line.removeprefix(STARTED).partition("/predict")[0]
        self.port = int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if line.startswith(STARTED):
                self._listening.set()
        self._listening.set()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 60) -> int:
        self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self._reader.join(60)
        return status

    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)

    def get(self, path: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
        connection = self.connection(context)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def predict(self, x: np.ndarray, context: ssl.SSLContext | None = None) -> list[dict[str, Any]]:
        """One request, CBOR there and JSON back."""
        connection = self.connection(context)
        try:
            return predict(connection, x)
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """The value of the sample that begins with `line`; 0: there is none."""
        found = [sample for sample in self.get("/metrics")[1].splitlines() if sample.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0


def predict(connection: http.client.HTTPConnection, x: np.ndarray) -> list[dict[str, Any]]:
    connection.request("POST", "/predict", dumps({"x": x.astype(np.float32)}), {"Content-Type": CBOR})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status == 200, content
    found: list[dict[str, Any]] = content["predictions"]
    return found
