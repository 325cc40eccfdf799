"""Metrics of a node and of the runs on it, in a registry of their own. Base units, ``_total`` for what only grows."""

import platform
import re
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from fedmesh import __version__
from fedmesh.events import (
    DeviceAnswered,
    DeviceFailed,
    DeviceReplied,
    Event,
    EventSink,
    ModelChecked,
    ModelReported,
    OfTask,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    RunStopped,
    StageStarted,
    StepDone,
    WaitingForDevices,
)
from fedmesh.observability.bounded import BoundedLabel
from fedmesh.observability.refusals import Refusals

__all__ = ["NodeMetrics", "RunMetrics", "event_name", "new_registry"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_HUMP = re.compile(r"(?<!^)(?=[A-Z])")


def new_registry() -> CollectorRegistry:
    """A registry with the facts of this process: ``process_*`` as every exporter has them, ``fedmesh_build_info``."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge("fedmesh_build_info", "Always 1.", ("version", "python"), registry=registry)
    build.labels(__version__, platform.python_version()).set(1)
    return registry


def event_name(event: Event) -> str:
    """The class of an event as logs and metrics spell it, e.g. ``round_finished``."""
    return _HUMP.sub("_", type(event).__name__).lower()


class NodeMetrics:
    """What any node has, whatever runs on it.

    Attributes:
        registry: to be served. refusals: where parts are watched.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = new_registry() if registry is None else registry
        self.refusals = Refusals()
        self.registry.register(self.refusals)
        self._connected = Gauge("fedmesh_broker_connected", "1 while connected to the broker.", registry=self.registry)
        self._certificate = Gauge(
            "fedmesh_certificate_expiry_timestamp_seconds", "When this node's certificate ends.", registry=self.registry
        )
        self._present = Gauge(
            "fedmesh_peers_present", "Parties that the broker says are there.", registry=self.registry
        )

    def watch(
        self,
        *,
        connected: Callable[[], bool] | None = None,
        present: Callable[[], int] | None = None,
        certificate_ends: Callable[[], float] | None = None,
    ) -> None:
        """Reads these at every scrape, from another thread.

        Args:
            connected: whether the broker is there. present: how many parties are. certificate_ends: Unix seconds.
        """
        if connected is not None:
            self._connected.set_function(lambda: float(connected()))
        if present is not None:
            self._present.set_function(present)
        if certificate_ends is not None:
            self._certificate.set_function(certificate_ends)


class RunMetrics:
    """Facts of runs as metrics, by task: the names of tasks are the configuration's, so there are only so many.

    Args:
        registry: where they are exported. clock: Unix seconds, for the moment of the last round.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stage, self._event = BoundedLabel(32), BoundedLabel(64)
        self._why, self._outcome = BoundedLabel(32), BoundedLabel(32)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"fedmesh_{name}", about, ("task", *labels), registry=registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"fedmesh_{name}", about, ("task",), registry=registry)

        self._events = counter("events", "Facts of any kind.", "event")
        self._runs = counter("runs", "Runs begun or gone on with, finished, and stopped.", "state")
        self._planned = gauge("run_planned_rounds", "Rounds of the run.")
        self._devices = gauge("run_devices", "Devices of the federation.")
        self._preparation = counter("preparation_seconds", "Seconds of work before the first round.")
        self._rounds = counter("rounds", "Rounds committed; failed ones left the model as it was.", "outcome")
        self._round = gauge("round", "The round under way, or the last one.")
        self._last = gauge("round_last_timestamp_seconds", "When the last round was committed.")
        self._seconds = Histogram(
            "fedmesh_round_seconds", "How long rounds took.", ("task",), buckets=_SECONDS, registry=registry
        )
        self._asked = gauge("round_asked_devices", "Devices asked in the last round.")
        self._survivors = gauge("round_survivors", "Devices in the sum of the last round.")
        self._sent = gauge("round_device_sent_bytes", "Payload that a device sent in the last round, on average.")
        self._received = gauge("round_device_received_bytes", "Payload that a device received in it, on average.")
        self._stages = counter("stages", "Stages begun.", "stage")
        self._messages = counter("stage_messages", "Messages sent to devices.", "stage")
        self._replies = counter("replies", "Answers of devices.", "stage")
        self._reply_bytes = counter("reply_bytes", "Payload of those answers.", "stage")
        self._failures = counter("device_failures", "Devices that did not answer, or answered with an error.", "stage")
        self._present = gauge("round_present_devices", "Devices that were there when a round last waited for them.")
        self._wanted = gauge("round_wanted_devices", "Devices that it waited for.")
        self._answers = counter("offers", "Offers of a run that devices answered; why: empty where they accept.", "why")
        self._reports = counter("model_reports", "What devices said became of delivered models.", "outcome")
        self._accuracy = gauge("accuracy_ratio", "Of the int8 model on the held-out examples.")
        self._loss = gauge("loss", "On the same examples.")
        self._epsilon = gauge("epsilon", "Spent by a device in this run so far, at the task's delta.")
        self._agreement = gauge("model_agreement_ratio", "Examples on which the int8 and the trained model agree.")
        self._difference = gauge("model_logit_difference", "Largest difference of their logits.")

    def sink(self, task: str = "") -> EventSink:
        """Where the events of `task`, as its configuration names it, are to go. Safe from several threads.

        An event that says its task itself (`OfTask`) counts for that one; of no task is ``""``.
        """
        return lambda event: self._handle(task, event)

    def _handle(self, task: str, event: Event) -> None:
        if isinstance(event, OfTask):
            self._handle(event.task, event.event)
            return
        self._events.labels(task, self._event(event_name(event))).inc()
        match event:
            case RunStarted():
                self._runs.labels(task, "started").inc()
                self._planned.labels(task).set(event.rounds)
                self._devices.labels(task).set(event.devices)
            case StepDone():
                self._preparation.labels(task).inc(event.seconds)
            case RoundStarted():
                self._round.labels(task).set(event.round)
            case StageStarted() | DeviceReplied() | DeviceFailed():
                self._handle_stage(task, self._stage(event.stage), event)
            case ModelChecked():
                self._agreement.labels(task).set(event.agreement)
                self._difference.labels(task).set(event.max_abs_logit_difference)
            case RoundFinished():
                self._handle_round(task, event)
            case RunFinished() | RunStopped():
                self._runs.labels(task, event_name(event).removeprefix("run_")).inc()
            case _:
                self._handle_fleet(task, event)

    def _handle_fleet(self, task: str, event: Event) -> None:
        """What is told of devices; a kind that wants no more than to be counted has been."""
        match event:
            case WaitingForDevices():
                self._present.labels(task).set(event.present)
                self._wanted.labels(task).set(event.wanted)
            case DeviceAnswered():
                self._answers.labels(task, "" if event.accepted else self._why(event.why)).inc()
            case ModelReported():
                self._reports.labels(task, self._outcome(event.outcome)).inc()

    def _handle_stage(self, task: str, stage: str, event: StageStarted | DeviceReplied | DeviceFailed) -> None:
        match event:
            case StageStarted():
                self._stages.labels(task, stage).inc()
                self._messages.labels(task, stage).inc(event.devices)
            case DeviceReplied():
                self._replies.labels(task, stage).inc()
                self._reply_bytes.labels(task, stage).inc(event.payload_bytes)
            case DeviceFailed():
                self._failures.labels(task, stage).inc()

    def _handle_round(self, task: str, event: RoundFinished) -> None:
        self._rounds.labels(task, "ok" if event.failed is None else "failed").inc()
        self._round.labels(task).set(event.round)
        self._last.labels(task).set(self._clock())
        self._seconds.labels(task).observe(event.seconds)
        self._asked.labels(task).set(event.clients)
        self._survivors.labels(task).set(event.survivors)
        self._sent.labels(task).set(event.bytes_up)
        self._received.labels(task).set(event.bytes_down)
        self._accuracy.labels(task).set(event.accuracy_int8)
        self._loss.labels(task).set(event.loss)
        if event.epsilon is not None:
            self._epsilon.labels(task).set(event.epsilon)
