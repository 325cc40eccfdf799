"""The facts of a run, as they happen: the CLI's progress, the journal's log and the report are readers of these.

An event never carries an array, a key or anybody's data; counts and metrics are those of the public or held-out side.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "AttemptBegun",
    "AvailabilityChanged",
    "CertificateRenewed",
    "DeviceAnswered",
    "DeviceFailed",
    "DeviceReplied",
    "DeviceSeen",
    "Event",
    "EventSink",
    "InstructionRefused",
    "ListAccepted",
    "MemberChanged",
    "ModelChecked",
    "ModelInstalled",
    "ModelProven",
    "ModelPublished",
    "ModelRefused",
    "ModelReported",
    "ModelRolledBack",
    "ModelSwapped",
    "Notice",
    "OfTask",
    "OfferAnswered",
    "PacketRefused",
    "PeerFound",
    "ReplyKept",
    "ReplyPosted",
    "RoundCertified",
    "RoundFinished",
    "RoundStarted",
    "RunDeclined",
    "RunEnded",
    "RunFinished",
    "RunForked",
    "RunJoined",
    "RunPaused",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "StageStarted",
    "StepAveraged",
    "StepDone",
    "SwapRefused",
    "SwapUndone",
    "TrainingBegun",
    "UpdateRefused",
    "WaitingForDevices",
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
class SwapRefused(Event):
    """A model was offered to inference and is not taken: it cannot be loaded, or failed its probe."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelProven(Event):
    """The model `sha256` did well on requests after its swap: the one before it is dropped."""

    sha256: str


@dataclass(frozen=True, slots=True)
class SwapUndone(Event):
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


@dataclass(frozen=True, slots=True)
class OfTask(Event):
    """What one of several tasks that run side by side has told. `run` is 0 before it has an id."""

    task: str
    run: int
    event: Event


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something that an operator should know, in words: what is wrong or waited for, and what to do about it."""

    text: str


@dataclass(frozen=True, slots=True)
class DeviceSeen(Event):
    """A device of the fleet says how it is. `why` it is not available: one word, nothing of its data."""

    device: str
    tier: str
    available: bool
    why: str


@dataclass(frozen=True, slots=True)
class DeviceAnswered(Event):
    """A device takes part in a run from now on, or does not: `why` is one word."""

    device: str
    accepted: bool
    why: str


@dataclass(frozen=True, slots=True)
class PacketRefused(Event):
    """A packet came that is not taken; `code` says why, `sender` is who the transport says it is from."""

    sender: str
    code: str


@dataclass(frozen=True, slots=True)
class PeerFound(Event):
    """A member answered at an address that `source` named: one word, as ``seed``, ``known`` or ``nearby``."""

    device: str
    source: str


@dataclass(frozen=True, slots=True)
class MemberChanged(Event):
    """What this member of a mesh holds another to be: alive, suspect, dead, left, or removed from the roster."""

    device: str
    state: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ListAccepted(Event):
    """A newer signed list, ``roster`` or ``revocations``, counts from now on; `source`: ``neighbour`` or ``folder``."""

    kind: str
    version: int
    source: str


@dataclass(frozen=True, slots=True)
class RunJoined(Event):
    """This member of a mesh takes part in a run, from `round` on; `run` in all of these is its id, in hexadecimal."""

    task: str
    run: str
    round: int
    rounds: int
    members: int
    quorum: int


@dataclass(frozen=True, slots=True)
class RunDeclined(Event):
    """This member votes in the run, and does not train; `why` in words."""

    task: str
    run: str
    why: str


@dataclass(frozen=True, slots=True)
class AttemptBegun(Event):
    """Another attempt of a round under way, as this member sees it, with whom it holds to be its coordinator."""

    task: str
    run: str
    round: int
    attempt: int
    aggregator: str


@dataclass(frozen=True, slots=True)
class RoundCertified(Event):
    """A quorum stands behind a round's result, in a mesh.

    Attributes:
        survivors: inputs in the sum; names: whose they are, with commas; is_void: whether nothing was learned.
        epsilon: of the run so far, as the certificate says it; None: it says none.
    """

    task: str
    run: str
    round: int
    attempt: int
    survivors: int
    names: str
    is_void: bool
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class StepAveraged(Event):
    """A step of gossip averaging is over for this member.

    Attributes:
        outcome: ``mixed``, ``left-out`` or ``unsettled``; members: in the sum that it took its part of; names: theirs,
            with commas.
    """

    task: str
    run: str
    step: int
    outcome: str
    members: int
    names: str


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """All rounds of a run are over; `void` of them learned nothing."""

    task: str
    run: str
    rounds: int
    void: int


@dataclass(frozen=True, slots=True)
class RunForked(Event):
    """Two results of a round are certified: `signers`, with commas, have signed both. Nobody goes on with this run."""

    task: str
    run: str
    round: int
    signers: str


@dataclass(frozen=True, slots=True)
class UpdateRefused(Event):
    """What a device answered in a round is not in its result, though it was no error; its words are in the record."""

    round: int
    device: int
    code: str = "unusable"


@dataclass(frozen=True, slots=True)
class InstructionRefused(Event):
    """A device does not do what its coordinator asked; `code` is the word that it answers, or why its app refused."""

    run: int
    code: str


@dataclass(frozen=True, slots=True)
class ModelReported(Event):
    """A device says what became of a model that was delivered to it."""

    device: str
    version: int
    outcome: str


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


@dataclass(frozen=True, slots=True)
class ModelPublished(Event):
    """A version is signed and may be fetched; `delta_bytes` is that of the smallest delta, None where there is none."""

    version: int
    round: int | None
    bytes: int
    delta_bytes: int | None


@dataclass(frozen=True, slots=True)
class ModelInstalled(Event):
    """A version is in a slot of this device, was probed and is what runs; `fetched_bytes` came over the network."""

    version: int
    round: int | None
    slot: str
    fetched_bytes: int
    as_delta: bool


@dataclass(frozen=True, slots=True)
class ModelRefused(Event):
    """What was offered is not what may run here; `code` is one of `fedmesh.errors.REGISTRY_CODES`."""

    code: str
    reason: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRolledBack(Event):
    """This device went back from a version that ran to the one before; None: there is none, and nothing runs."""

    version: int
    to: int | None
    reason: str


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
class CertificateRenewed(Event):
    """A device has a new certificate."""


EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink for those who do not listen."""
