"""A run under a coordinator, simulated or not, as it goes."""

from dataclasses import dataclass

from fedmesh.events.base import Event

__all__ = [
    "DeviceFailed",
    "DeviceReplied",
    "RoundFinished",
    "RoundStarted",
    "RunFinished",
    "RunPaused",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "StageStarted",
    "StepDone",
    "UpdateRefused",
    "WaitingForDevices",
]


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


@dataclass(frozen=True, slots=True)
class UpdateRefused(Event):
    """What a device answered in a round is not in its result, though it was no error; its words are in the record."""

    round: int
    device: int
    code: str = "unusable"


@dataclass(frozen=True, slots=True)
class WaitingForDevices(Event):
    """`round` does not begin yet: `present` devices are there, it wants `wanted`. Again whenever the number changes."""

    round: int
    present: int
    wanted: int


@dataclass(frozen=True, slots=True)
class RunPaused(Event):
    """An operator asked for a pause; the run waits behind `last_round`."""

    last_round: int


@dataclass(frozen=True, slots=True)
class RunResumed(Event):
    """The pause is over; `round` is next."""

    round: int


@dataclass(frozen=True, slots=True)
class RunStopped(Event):
    """An operator ended the run behind `last_round`; `abandoned`: the round under way was given up for it."""

    last_round: int
    abandoned: bool
