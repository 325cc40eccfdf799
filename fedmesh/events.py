"""The facts of a run, as they happen: the CLI's progress, the journal's log and the report are readers of these.

An event never carries an array, a key or anybody's data; counts and metrics are those of the public or held-out side.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "DeviceFailed",
    "DeviceReplied",
    "Event",
    "EventSink",
    "ModelChecked",
    "ModelProven",
    "ModelRefused",
    "ModelRolledBack",
    "ModelSwapped",
    "RoundFinished",
    "RoundStarted",
    "RunFinished",
    "RunStarted",
    "StageStarted",
    "StepDone",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all facts."""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A run begins, or goes on at `first_round` after an interruption."""

    name: str
    rounds: int
    first_round: int
    devices: int


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """Preparation on the way to round one, e.g. ``"public pre-training"``."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RoundStarted(Event):
    """A round begins."""

    round: int


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """Messages of one stage of the round were sent to `devices` devices."""

    round: int
    stage: str
    devices: int


@dataclass(frozen=True, slots=True)
class DeviceReplied(Event):
    """A device answered; `payload_bytes` is the measured size of its answer."""

    round: int
    stage: str
    device: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceFailed(Event):
    """A device did not answer, or answered with an error."""

    round: int
    stage: str
    device: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChecked(Event):
    """The round's int8 model was written and compared with the fake-quantized one."""

    round: int
    agreement: float
    max_abs_logit_difference: float


@dataclass(frozen=True, slots=True)
class ModelSwapped(Event):
    """From now on requests are answered by the model `sha256`; `before` answered until now (empty: none did)."""

    sha256: str
    before: str


@dataclass(frozen=True, slots=True)
class ModelRefused(Event):
    """A model was offered to inference and is not taken: it cannot be loaded, or failed its probe."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelProven(Event):
    """The model `sha256` did well on requests after its swap: the one before it is dropped."""

    sha256: str


@dataclass(frozen=True, slots=True)
class ModelRolledBack(Event):
    """The model `sha256` did badly on requests after its swap: `to` answers again."""

    sha256: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class RoundFinished(Event):
    """A round is committed to the journal; `failed` says why it left the model as it was, None for a good one."""

    round: int
    clients: int
    survivors: int
    accuracy_int8: float
    loss: float
    epsilon: float | None
    bytes_up: float
    bytes_down: float
    seconds: float
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run is complete."""

    seconds: float


EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink for those who do not listen."""
