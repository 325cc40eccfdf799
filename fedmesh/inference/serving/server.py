"""uvicorn around the application: a socket, signals, and an end that drops no request.

SIGTERM and Ctrl-C stop the listening; requests that began are answered, for at most `Limits.drain_s`; then `serve`
returns. A second Ctrl-C ends it at once. uvicorn's own logging is left as it is: warnings of the ``uvicorn`` loggers.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from fedmesh.errors import ConfigError
from fedmesh.inference.serving.connections import Connection, connections
from fedmesh.inference.serving.service import Service
from fedmesh.inference.watch import Watch

if TYPE_CHECKING:
    from fedmesh.inference.serving.peers import Guard

__all__ = ["answer", "listener", "serve"]

_log = logging.getLogger(__name__)


def listener(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port` (0: any free one). Raises: ConfigError: it cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        # asyncio sets TCP_NODELAY on sockets that say TCP alone; without it an answer waits 40 ms to be acknowledged.
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another address or port"
        ) from error
    return bound


def serve(
    app: FastAPI,
    service: Service,
    bound: socket.socket,
    *,
    guard: "Guard | None" = None,
    watch: Watch | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Answers at `bound` until a signal comes; closes `service`.

    Args:
        guard: mutual TLS; None: no TLS.
        watch: what swaps models meanwhile.
        started: called once requests are taken.
    """
    server = _Server(_config(app, service, guard), started)
    stop = Event()
    watcher = Thread(target=_watched, args=(watch, stop), name="fedmesh-watch")
    watcher.start()
    try:
        asyncio.run(_until_ended(server, bound, guard, service.limits.lists_s))
    finally:
        stop.set()
        watcher.join()
        service.close()


async def answer(
    app: FastAPI,
    service: Service,
    bound: socket.socket,
    *,
    guard: "Guard | None" = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Answers at `bound` on the running event loop until it is cancelled; closes `service`. Signals are the caller's.

    Cancelled, it ends when the requests that began are answered, or `Limits.drain_s` are over.
    """
    server = _Server(_config(app, service, guard), started, signals=False)
    serving = asyncio.ensure_future(_until_ended(server, bound, guard, service.limits.lists_s))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        bound.close()
        await asyncio.to_thread(service.close)


def _config(app: FastAPI, service: Service, guard: "Guard | None") -> uvicorn.Config:
    limits = service.limits
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=connections(guard, limits.head_s),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=limits.drain_s,
        ssl_context_factory=None if guard is None else lambda _config, _default: guard.context,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves the process to its caller: it does not raise the signal that stopped it again.

    `signals`: whether SIGTERM and Ctrl-C stop it.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], *, signals: bool = True) -> None:
        super().__init__(config)
        self._tell_started, self._signals = started, signals

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        stopping = (signal.SIGINT, signal.SIGTERM) if self._signals else ()
        before = {number: signal.signal(number, self.handle_exit) for number in stopping}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _until_ended(server: _Server, bound: socket.socket, guard: "Guard | None", lists_s: float) -> None:
    guarding = None if guard is None else asyncio.create_task(_guarded(guard, lists_s))
    try:
        await server.serve(sockets=[bound])
    finally:
        if guarding is not None:
            guarding.cancel()
            with suppress(asyncio.CancelledError):
                await guarding


async def _guarded(guard: "Guard", lists_s: float) -> None:
    """Ends the connections of those who are no longer members."""
    while True:
        await asyncio.sleep(lists_s)
        try:
            _cut_strangers(guard)
        except ConfigError as error:
            _log.warning("the identity cannot be read again: %s", error)
        except Exception:  # noqa: BLE001 - the next stranger must not be let stay for want of a guard
            _log.exception("connections could not be looked at, which is tried again")


def _cut_strangers(guard: "Guard") -> None:
    for session, reason in guard.refresh().items():
        _log.warning("a connection is cut: %s", reason)
        assert isinstance(session, Connection)
        session.cut()


def _watched(watch: Watch | None, stop: Event) -> None:
    while watch is not None and not stop.is_set():
        try:
            watch.run(stop)
        except Exception:  # noqa: BLE001 - requests are answered meanwhile, and the next look may do better
            _log.exception("the slots could not be looked at, which is tried again")
            stop.wait(1.0)
