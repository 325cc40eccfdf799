"""The central types: the currency between parts, and the seams where parts can be exchanged.

Facts are frozen dataclasses, seams are Protocols of one to three methods. `Update` and `Mechanism` (noise around the
secure sum) and `Transport` (MQTT, the mesh) are settled ahead of the parts that use them.

numpy is loaded when an array is touched, or the name of an array's type is first used: a device that waits for its
first run or model has none, and numpy takes 14 MB of it.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from fedmesh.errors import DecodeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Arrays = Mapping[str, Float32]
    """Layer name -> values; the one currency between parts. The order of the mapping is the order on the wire."""

__all__ = [
    "Arrays",
    "Codec",
    "Examples",
    "Float32",
    "Layout",
    "Ledger",
    "Mechanism",
    "PeerId",
    "PrivacyEvent",
    "Transport",
    "Update",
]

PeerId = str


def __getattr__(name: str) -> Any:
    """`Float32` and `Arrays`, which are made of numpy's types."""
    if name not in {"Arrays", "Float32"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    from numpy.typing import NDArray

    globals()["Float32"] = NDArray[np.float32]
    globals()["Arrays"] = Mapping[str, NDArray[np.float32]]
    return globals()[name]


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled examples: `x` float32 [N, ...] and `y` int64 [N], values finite."""

    x: "Float32"
    y: "NDArray[np.int64]"

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: "NDArray[Any] | slice") -> "Examples":
        return Examples(self.x[index], self.y[index])


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of a model's arrays, in wire order: what turns a flat vector into `Arrays` and back.

    ``unflatten(flatten(a)) == a`` for all arrays of this layout, bit for bit.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, arrays: "Mapping[str, NDArray[Any]]") -> Self:
        """The layout of `arrays`."""
        return cls(tuple(arrays), tuple(tuple(a.shape) for a in arrays.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each array; a scalar has one."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Number of elements of the flat vector."""
        return sum(self.sizes)

    @property
    def digest(self) -> bytes:
        """SHA-256 over names and shapes, 32 bytes: two models agree on it or must not be summed."""
        text = ";".join(f"{n}:{','.join(map(str, s))}" for n, s in zip(self.names, self.shapes, strict=True))
        return hashlib.sha256(text.encode()).digest()

    def flatten(self, arrays: "Arrays") -> "Float32":
        """One contiguous float32 vector of length `size`.

        Raises:
            DecodeError: names or shapes differ from this layout.
        """
        if tuple(arrays) != self.names or tuple(tuple(a.shape) for a in arrays.values()) != self.shapes:
            got = ", ".join(f"{n}{list(a.shape)}" for n, a in arrays.items())
            want = ", ".join(f"{n}{list(s)}" for n, s in zip(self.names, self.shapes, strict=True))
            msg = f"the arrays do not fit the model: got {got}; wanted {want}"
            raise DecodeError(msg)
        import numpy as np

        flat = [np.asarray(a, dtype=np.float32).ravel() for a in arrays.values()]
        return np.concatenate(flat) if flat else np.zeros(0, np.float32)

    def unflatten(self, vector: "NDArray[Any]") -> "dict[str, NDArray[Any]]":
        """Views into `vector` by name, dtype kept.

        Raises:
            DecodeError: the vector's length is not `size`.
        """
        if vector.shape != (self.size,):
            msg = f"a vector of shape {vector.shape} arrived where the model has {self.size} values"
            raise DecodeError(msg)
        import numpy as np

        ends = np.cumsum(self.sizes)
        parts = np.split(vector, ends[:-1]) if self.names else []
        return {n: p.reshape(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}


@dataclass(frozen=True, slots=True)
class Update:
    """What one device contributes to one round: a weight delta and the integer weight it is averaged with."""

    delta: "Arrays"
    weight: int


@dataclass(frozen=True, slots=True)
class PrivacyEvent:
    """A privacy cost as data (after dp-accounting): `count` times the named mechanism.

    Attributes:
        mechanism: one that `fedmesh.privacy.accountant` lists, e.g. ``"sampled_gaussian"``.
        parameters: the mechanism's public parameters, e.g. ``{"sample_rate": 0.1, "noise_multiplier": 1.0}``.
        count: how many times it is composed with itself.
        label: what it pays for, e.g. ``"digits/round-3"``; never anything about the data.
    """

    mechanism: str
    parameters: Mapping[str, float]
    count: int = 1
    label: str = field(default="", compare=False)


class Codec(Protocol):
    """Arrays <-> bytes."""

    def encode(self, arrays: "Arrays", rng: "np.random.Generator") -> bytes:
        """One packet; `rng` drives stochastic rounding."""
        ...

    def decode(self, data: bytes, *, max_bytes: int) -> "Arrays":
        """The arrays of a packet. Raises: DecodeError for anything else than a packet of this codec."""
        ...


class Mechanism(Protocol):
    """A central or distributed noise mechanism around the sum of updates."""

    def bound(self, update: Update) -> Update:
        """The update with its sensitivity bounded."""
        ...

    def perturb(self, total: "Arrays", rng: "np.random.Generator") -> "Arrays":
        """The sum with noise."""
        ...

    def event(self) -> PrivacyEvent:
        """What one release costs."""
        ...


class Ledger(Protocol):
    """A device's record of privacy spent."""

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        """Durable before it returns; a release that was paid for already costs nothing. Raises: BudgetError."""
        ...

    def epsilon(self, delta: float) -> float:
        """Epsilon spent so far at `delta`."""
        ...


class Transport(Protocol):
    """Moves opaque bytes between peers: whole and once, or not at all. Who wrote them is for the content to prove."""

    async def send(self, to: PeerId, data: bytes, *, expires_in_s: float | None = None) -> None:
        """Returns when the peer has `data`. Raises: PeerError: it is too long, was refused, or has expired."""
        ...

    def receive(self) -> AsyncIterator[tuple[PeerId, bytes]]:
        """What arrives, with who sent it."""
        ...

    async def aclose(self) -> None:
        """Stops receiving; idempotent."""
        ...
