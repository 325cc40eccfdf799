"""The facts of a run, as they happen: the CLI's progress, the journal's log and the report are readers of these.

An event never carries an array, a key or anybody's data; counts and metrics are those of the public or held-out side.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "AvailabilityChanged",
    "CertificateRenewed",
    "DeviceFailed",
    "DeviceReplied",
    "Event",
    "EventSink",
    "ModelChecked",
    "OfferAnswered",
    "PacketRefused",
    "ReplyKept",
    "ReplyPosted",
    "RoundFinished",
    "RoundStarted",
    "RunFinished",
    "RunStarted",
    "StageStarted",
    "StepDone",
    "TrainingBegun",
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
class OfferAnswered(Event):
    """A device was offered a run and took it, or declined with one word."""

    run: int
    name: str
    declined: str


@dataclass(frozen=True, slots=True)
class TrainingBegun(Event):
    """A device begins to train: what follows may be charged to its ledger."""

    run: int
    round: int


@dataclass(frozen=True, slots=True)
class ReplyKept(Event):
    """A device has a message's reply on its disk; `error` is empty or one word."""

    run: int
    round: int
    what: str
    error: str


@dataclass(frozen=True, slots=True)
class ReplyPosted(Event):
    """A device's reply is the transport's."""

    run: int


@dataclass(frozen=True, slots=True)
class AvailabilityChanged(Event):
    """A device became able to train, or unable, for a reason of one word."""

    why: str


@dataclass(frozen=True, slots=True)
class PacketRefused(Event):
    """A packet came that is not taken; `code` says why, `sender` is who the transport says it is from."""

    sender: str
    code: str


@dataclass(frozen=True, slots=True)
class CertificateRenewed(Event):
    """A device has a new certificate."""


EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink for those who do not listen."""
