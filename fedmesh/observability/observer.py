"""All of it for one running process: events to logs and metrics, health over HTTP, systemd kept informed."""

import asyncio
import os
from collections.abc import MutableMapping
from types import TracebackType
from typing import Self

from fedmesh.configuration.values import Address
from fedmesh.events import (
    Event,
    EventSink,
    Notice,
    OfferAnswered,
    OfTask,
    RoundFinished,
    RunFinished,
    WaitingForDevices,
    ignore,
)
from fedmesh.observability.exporter import MetricsServer
from fedmesh.observability.health import Health, Heartbeat
from fedmesh.observability.logs import LogSink
from fedmesh.observability.metrics import NodeMetrics, RunMetrics, event_name
from fedmesh.observability.systemd import Notifier, Watchdog

__all__ = ["Observer"]

_TURN_S = 1.0


class Observer:
    """What a process that keeps running shows of itself, from entering it to leaving it.

    Give `events` to whatever tells some, run `tend` on the event loop that has to turn, add probes to `health` and
    counters to ``metrics.refusals``, and say `ready` when it is. An event that is called Something-Refused and has a
    `code` counts as a refusal too, and so does an offer that this device declines (part ``offer``).

    Attributes:
        metrics, health: to be added to. address: where they are served; None: nowhere.

    Args:
        logged: whether events go to the log; not where something else shows them.
        listen: where to serve ``/metrics``, ``/healthz``, ``/readyz``; None: nowhere.
        silence_s: a loop that has not turned for so long is dead.
        environment: what systemd has put its addresses in.

    Raises:
        ConfigError: on entering it, `listen` is taken, or not of this machine.
    """

    def __init__(
        self,
        listen: Address | None,
        *,
        logged: bool = True,
        silence_s: float = 30.0,
        environment: MutableMapping[str, str] = os.environ,
    ) -> None:
        self.metrics, self.health = NodeMetrics(), Health()
        self._heart = Heartbeat(silence_s)
        self.health.alive["loop"] = self._heart
        self._log: EventSink = LogSink() if logged else ignore
        self._runs = RunMetrics(self.metrics.registry).sink()
        self._notifier = Notifier.from_environment(environment)
        self._watchdog = Watchdog.from_environment(self._notifier, self._fault, environment)
        self._server = None if listen is None else MetricsServer(listen, self.metrics.registry, self.health)

    @property
    def address(self) -> Address | None:
        """Where it is served, with the port that was taken."""
        return None if self._server is None else self._server.address

    def events(self, event: Event) -> None:
        """An `EventSink`; safe from several threads."""
        self._log(event)
        self._runs(event)
        if (refused := _refused(event)) is not None:
            self.metrics.refusals.count(*refused)
        if status := _status(event):
            self._notifier.status(status)

    def ready(self, status: str = "") -> None:
        """Tells the service manager that the process is up, and shows it `status`."""
        self._notifier.ready(status)

    async def tend(self) -> None:
        """Until it is cancelled: its loop turns, so it is alive. The watchdog is fed where all else is, too."""
        while True:
            self._heart.beat()
            await asyncio.to_thread(self._watchdog.turn)  # a probe may be an inference
            await asyncio.sleep(_TURN_S)

    def __enter__(self) -> Self:
        if self._server is not None:
            self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._notifier.stopping()
        if self._server is not None:
            self._server.close()

    def _fault(self) -> str | None:
        return "; ".join(f"{name}: {fault}" for name, fault in self.health.dead().items()) or None


def _refused(event: Event) -> tuple[str, str] | None:
    """Part and reason of an event called Something-Refused that has a code, e.g. ``packet``, ``proof``."""
    fact = event.event if isinstance(event, OfTask) else event
    if isinstance(fact, OfferAnswered):
        return ("offer", fact.declined) if fact.declined else None
    part, _, rest = event_name(fact).rpartition("_refused")
    code = getattr(fact, "code", None)
    return (part, code) if part and not rest and isinstance(code, str) else None


def _status(event: Event) -> str:
    """A line for ``systemctl status``; empty: the last one stands."""
    if isinstance(event, OfTask):
        inner = _status(event.event)
        return f"{event.task}: {inner}" if inner else ""
    status = ""
    match event:
        case RoundFinished(failed=failed) if failed is not None:
            status = f"round {event.round} failed: {failed}"
        case RoundFinished():
            status = f"round {event.round}, {event.survivors} devices, accuracy {event.accuracy_int8:.3f}"
        case WaitingForDevices():
            status = f"round {event.round} waits for devices: {event.present} of {event.wanted}"
        case RunFinished():
            status = "finished"
        case Notice():
            status = event.text
    return status
