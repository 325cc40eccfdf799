"""``/metrics``, ``/healthz`` and ``/readyz`` for agents without a web framework: HTTP/1.0 in a thread, bounded.

No TLS and no password: it is for loopback, or a network of one's own where the address given says so. A connection is
cut after ten seconds, and there are at most eight at once.
"""

import json
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from threading import BoundedSemaphore, Lock, Thread
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from fedmesh.configuration.values import Address
from fedmesh.errors import ConfigError
from fedmesh.observability.health import Health

__all__ = ["MetricsServer"]

_CONNECTIONS = 8
_LONGEST_S = 10.0
_Answer = tuple[HTTPStatus, str, bytes]


class MetricsServer:
    """Serves a registry and a health, from `start` (or entering it) until `close`.

    Args:
        address: where; port 0 takes any, which `address` then says.
        registry: what ``/metrics`` shows, in the text format of Prometheus or OpenMetrics, as it is asked for.
        health: what ``/healthz`` and ``/readyz`` ask: 200 or 503, and JSON that says what is wrong.
    """

    def __init__(self, address: Address, registry: CollectorRegistry, health: Health) -> None:
        self.address = address
        self._registry, self._health = registry, health
        self._server: _Server | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Listens. Raises: ConfigError: the address is taken, or not of this machine."""
        try:
            self._server = _Server(self.address, self._answer)
        except OSError as error:
            raise ConfigError(f"cannot serve metrics on {self.address}: {error.strerror or error}") from error
        self.address = Address(self.address.host, self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, name="fedmesh-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listens no more; does nothing where it never did."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, path: str, accept: str) -> _Answer:
        match path.partition("?")[0]:
            case "/metrics":
                encode, content_type = choose_encoder(accept)
                return HTTPStatus.OK, content_type, encode(self._registry)
            case "/healthz":
                return _health(self._health.dead())
            case "/readyz":
                return _health(self._health.unready())
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n"


def _health(wrong: dict[str, str]) -> _Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
    return status, "application/json", json.dumps({"ok": not wrong, "wrong": wrong}).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _CONNECTIONS

    def __init__(self, address: Address, answer: Callable[[str, str], _Answer]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.answer = answer
        self._free = BoundedSemaphore(_CONNECTIONS)
        self._begun: dict[socket.socket, float] = {}
        self._lock = Lock()
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that HTTPServer makes, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._lock:
            self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._begun.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """Twice a second: cuts what takes too long, however busily it drips."""
        before = time.monotonic() - _LONGEST_S
        with self._lock:
            late = [request for request, begun in self._begun.items() if begun < before]
        for request in late:
            _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business."""


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it went away by itself


class _Handler(BaseHTTPRequestHandler):
    server: BaseServer
    timeout = 5.0  # of a single read or write
    server_version, sys_version = "fedmesh", ""

    def do_GET(self) -> None:
        self._reply(body=True)

    def do_HEAD(self) -> None:
        self._reply(body=False)

    def log_message(self, *_: Any) -> None:
        """Scrapes are not worth a line each."""

    def _reply(self, *, body: bool) -> None:
        assert isinstance(self.server, _Server)
        status, content_type, content = self.server.answer(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
