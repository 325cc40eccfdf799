"""Another node's answer is bounded in bytes and time and checked; what is none is a `PeerError` and nothing else."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fedmesh.errors import ConfigError, PeerError
from fedmesh.inference.handoff import CBOR, HttpFallback, is_loopback
from fedmesh.wire import dumps

X = np.zeros((2, 4), np.float32)
GOOD = {"label": 3, "confidence": 0.75, "model": "ab" * 32, "handoff": "none"}


class Other:
    """A node that answers one request with whatever it is told to."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.answer: Callable[[socket.socket], None] = lambda _connection: None
        self.request = b""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self.listening.accept()
        except OSError:
            return
        with connection:
            self.request = connection.recv(1 << 16)
            try:
                self.answer(connection)
            except OSError:
                return

    def says(self, body: bytes, *, status: str = "200 OK", kind: str = CBOR) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = lambda connection: connection.sendall(head.encode() + body)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)  # what waits in `accept` wakes up
        self.listening.close()
        self.thread.join(120)

    def says_raw(self, data: bytes) -> None:
        self.answer = lambda connection: connection.sendall(data)


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other()
    yield made
    made.close()


def refused(other: Other, match: str, **options: Any) -> None:
    with pytest.raises(PeerError, match=match):
        HttpFallback(other.url, **options).predict(X)


def test_asks_and_reads(other: Other) -> None:
    other.says(dumps({"predictions": [GOOD, {**GOOD, "label": 1}]}))
    found = HttpFallback(other.url).predict(X)
    assert [one.label for one in found] == [3, 1]
    assert found[0].confidence == 0.75
    assert found[0].model == "ab" * 32
    assert found[0].seconds > 0
    head, _, body = other.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"fedmesh-handoff: 1" in head
    assert body == dumps({"x": X})


@pytest.mark.parametrize(
    "content",
    [
        {"predictions": [GOOD]},
        {"predictions": [GOOD] * 3},
        {"predictions": [GOOD, 1]},
        {"predictions": [GOOD, {**GOOD, "label": -1}]},
        {"predictions": [GOOD, {**GOOD, "label": True}]},
        {"predictions": [GOOD, {**GOOD, "label": 2**40}]},
        {"predictions": [GOOD, {**GOOD, "confidence": 1.5}]},
        {"predictions": [GOOD, {**GOOD, "confidence": float("nan")}]},
        {"predictions": [GOOD, {**GOOD, "confidence": 1}]},
        {"predictions": [GOOD, {**GOOD, "model": "short"}]},
        {"predictions": [GOOD, {**GOOD, "more": 1}]},
        {"predictions": {}},
        [],
        {},
    ],
)
def test_answers_that_are_none(other: Other, content: Any) -> None:
    other.says(dumps(content))
    refused(other, "prediction")


def test_bytes_that_are_none(other: Other) -> None:
    other.says(b"\xff\xff")
    refused(other, "not carried")


def test_other_statuses_and_types(other: Other) -> None:
    other.says(b"{}", status="503 Later")
    refused(other, "status 503")


def test_another_type(other: Other) -> None:
    other.says(b"<html>", kind="text/html")
    refused(other, "text/html")


@pytest.mark.parametrize(
    "data", [b"", b"junk\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"]
)
def test_what_is_not_http(other: Other, data: bytes) -> None:
    other.says_raw(data)
    refused(other, "not HTTP|answered with None")


def test_an_endless_answer(other: Other) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    other.answer = endless
    refused(other, "more than")


def test_a_trickle_ends_in_time(other: Other) -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    other.answer = trickle
    start = time.monotonic()
    refused(other, "within 0.3 s", timeout_s=0.3)
    assert time.monotonic() - start < 60  # it would take more than two minutes


def test_silence_ends_in_time(other: Other) -> None:
    heard = threading.Event()
    other.answer = lambda _connection: heard.wait(120)
    refused(other, "within 0.2 s", timeout_s=0.2)
    heard.set()


def test_nobody_is_there(other: Other) -> None:
    other.close()
    refused(other, "cannot be asked")


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.5:8000",
        "http://example.org:80",
        "ftp://127.0.0.1:1",
        "127.0.0.1:8000",
        "http://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://user@127.0.0.1:80",
        "http://127.0.0.1:80/?a=1",
        "http://127.0.0.1:80/a b",
        "http://127.0.0.1:80/\r\nX: y",
        "http://[::1",
        "",
    ],
)
def test_places_that_are_not_asked(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpFallback(url)


def test_tls_needs_to_know_who_answers() -> None:
    with pytest.raises(ConfigError, match="name the node's id"):
        HttpFallback("https://192.168.1.5:8000")


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "localhost.example.org", "")))
