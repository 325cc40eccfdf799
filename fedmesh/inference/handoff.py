"""A bigger model on another node, asked over HTTP: CBOR there and back, bounded in bytes and in time.

Over TLS the other node is who it is expected to be (`Membership.check`) before one byte of an example is sent. Without
TLS only this machine itself may be asked. One connection a request: who is revoked is not asked again, and requests
that need a bigger model are few.
"""

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedmesh.errors import ConfigError, DecodeError, PeerError
from fedmesh.inference.prediction import Prediction
from fedmesh.wire import dumps, loads

if TYPE_CHECKING:
    from fedmesh.identity import Membership
    from fedmesh.types import Float32

__all__ = ["CBOR", "HANDED_OFF", "HttpFallback", "is_loopback", "read_answer"]

CBOR = "application/cbor"
HANDED_OFF = "fedmesh-handoff"
"""A header: the request was handed off, and is not handed on."""

_HEAD_BYTES = 16 * 1024
_ANSWER_BYTES = 256  # of one example, at most
_FIELDS = {"label": int, "confidence": float, "model": str, "handoff": str}


@dataclass(frozen=True, slots=True)
class _Place:
    tls: bool
    host: str
    port: int
    path: str


class HttpFallback:
    """Another node's ``/predict``.

    Args:
        url: ``https://HOST:PORT``, or ``http://`` on this machine.
        peer: the id that the other node must have; for https.
        membership: who this node is, asked for each request, so that lists and certificate may change; for https.
        timeout_s: for the whole request, connecting included.
        clock: seconds since 1970.

    Raises:
        ConfigError: the URL is none of these, or peer and membership are missing for https.
    """

    def __init__(
        self,
        url: str,
        *,
        peer: str | None = None,
        membership: "Callable[[], Membership] | None" = None,
        timeout_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = _place(url)
        if self._place.tls and (peer is None or membership is None):
            raise ConfigError(f"{url} is asked over TLS: name the node's id and this node's identity folder")
        self._peer, self._membership = peer, membership
        self._timeout_s, self._clock = timeout_s, clock

    def predict(self, x: "Float32") -> list[Prediction]:
        """What the other node says of `x` [N, ...].

        Raises:
            PeerError: it cannot be reached in time, is not who is expected, refuses, or answers what is no answer.
            ConfigError: this node's own certificate cannot be read.
        """
        deadline = time.monotonic() + self._timeout_s
        start = time.perf_counter()
        try:
            with self._connected(deadline) as connection:
                connection.settimeout(_left(deadline))
                connection.sendall(self._request(dumps({"x": x})))
                answer = _received(connection, deadline, _HEAD_BYTES + _ANSWER_BYTES * (len(x) + 1))
        except TimeoutError as error:
            raise PeerError(f"{self._name} did not answer within {self._timeout_s:g} s") from error
        except OSError as error:  # of which ssl's errors are
            raise PeerError(f"{self._name} cannot be asked: {error.strerror or error}") from error
        return read_answer(_body(answer, self._name), len(x), time.perf_counter() - start)

    @property
    def _name(self) -> str:
        host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
        return f"{host}:{self._place.port}"

    def _connected(self, deadline: float) -> socket.socket:
        plain = socket.create_connection((self._place.host, self._place.port), timeout=_left(deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._secured(plain, deadline) if self._place.tls else plain
        except BaseException:
            plain.close()
            raise

    def _secured(self, plain: socket.socket, deadline: float) -> ssl.SSLSocket:
        from fedmesh.transport.tls import dialling

        assert self._membership is not None
        plain.settimeout(_left(deadline))
        membership = self._membership()
        secured = dialling(membership.tls_path, membership.root_path).wrap_socket(plain)
        try:
            leaf = secured.getpeercert(binary_form=True)
            membership.check([leaf] if leaf else [], expected=self._peer, clock=self._clock(), server=True)
        except BaseException:
            secured.close()
            raise
        return secured

    def _request(self, body: bytes) -> bytes:
        head = (
            f"POST {self._place.path} HTTP/1.1\r\nHost: {self._name}\r\nContent-Type: {CBOR}\r\nAccept: {CBOR}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{HANDED_OFF}: 1\r\n\r\n"
        )
        return head.encode("ascii") + body


def read_answer(data: bytes, examples: int, seconds: float) -> list[Prediction]:
    """The predictions in an answer of ``/predict`` about that many `examples`, as CBOR. Raises: DecodeError."""
    content = loads(data, max_bytes=_ANSWER_BYTES * (examples + 1))
    found = content.get("predictions") if isinstance(content, dict) else None
    if not isinstance(found, list) or len(found) != examples:
        raise DecodeError(f"an answer came that does not hold {examples} predictions")
    return [_prediction(one, seconds) for one in found]


def _prediction(one: Any, seconds: float) -> Prediction:
    if not isinstance(one, dict) or {name: type(value) for name, value in one.items()} != _FIELDS:
        raise DecodeError(f"a prediction has {', '.join(_FIELDS)}; another thing came")
    if not (0 <= one["label"] < 2**31 and 0 <= one["confidence"] <= 1 and len(one["model"]) == 64):
        raise DecodeError("a prediction came whose label, confidence or model is impossible")
    return Prediction(one["label"], one["confidence"], one["model"], seconds)


def _place(url: str) -> _Place:
    wanted = "wanted https://HOST:PORT, or http://HOST:PORT on this machine"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r:.100} is no URL: {wanted}") from error
    odd = not url.isascii() or any(character <= " " for character in url) or parts.query or parts.fragment
    if odd or parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not port:
        raise ConfigError(f"{url!r:.100} is no place to hand off to: {wanted}")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"{url} would send examples in the clear: {wanted}")
    path = parts.path.rstrip("/")
    return _Place(
        parts.scheme == "https", parts.hostname, port, path if path.endswith("/predict") else f"{path}/predict"
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself: an address of the loopback network, or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _received(connection: socket.socket, deadline: float, max_bytes: int) -> bytes:
    """All that comes until the other end closes, which `Connection: close` asks it to."""
    answer = bytearray()
    while True:
        connection.settimeout(_left(deadline))
        data = connection.recv(1 << 16)
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > max_bytes:
            raise PeerError(f"an answer of more than {max_bytes} bytes came")


class _Received:
    """A socket, as far as `http.client` reads from one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _body(answer: bytes, name: str) -> bytes:
    try:
        response = http.client.HTTPResponse(_Received(answer))  # type: ignore[arg-type]  # what is said of sockets there
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ValueError) as error:
        raise PeerError(f"{name} answered something that is not HTTP: {type(error).__name__}") from error
    if response.status != http.HTTPStatus.OK:
        raise PeerError(f"{name} refused with status {response.status}")
    if response.getheader("Content-Type") != CBOR:
        raise PeerError(f"{name} answered with {response.getheader('Content-Type')!r:.60}; wanted {CBOR}")
    return body
