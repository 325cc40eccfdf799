"""A model on its way: checked, published, installed, swapped, taken back."""

from dataclasses import dataclass

from fedmesh.events.base import Event

__all__ = [
    "ModelChecked",
    "ModelInstalled",
    "ModelProven",
    "ModelPublished",
    "ModelRefused",
    "ModelReported",
    "ModelRolledBack",
    "ModelSwapped",
    "SwapRefused",
    "SwapUndone",
]


@dataclass(frozen=True, slots=True)
class ModelChecked(Event):
    """The round's int8 model was written and compared with the fake-quantized one."""

    round: int
    agreement: float
    max_abs_logit_difference: float


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
class ModelReported(Event):
    """A device says what became of a model that was delivered to it."""

    device: str
    version: int
    outcome: str


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
