"""Whether a model, on this machine, computes what it computed where it was made: the golden set.

Bit for bit, because int8 layers are exact on every CPU that docs/quantization.md names. The one exception stated there,
residual additions on arm64, has a tolerance of its own.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DecodeError, MismatchError
from fedmesh.files import read_bounded
from fedmesh.types import Float32
from fedmesh.wire import loads

__all__ = ["ARM64_RESIDUAL", "Golden", "Probe", "golden_beside", "tolerance_for"]

ARM64_RESIDUAL = 2e-3
"""How far logits of a model with QLinearAdd were seen to be off on arm64."""

GOLDEN_NAME = "golden.cbor"
_GOLDEN_BYTES = 16 * 1024 * 1024


class Runs(Protocol):
    """What can be probed."""

    def run(self, x: NDArray[Any]) -> Float32:
        """Logits, float32 [N, classes]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs `x`, float32 [N, ...], and the `logits`, float32 [N, C], that the model gave where it was made.

    `integer_additions`: whether it adds in QLinearAdd, as residual models do unless exported with ``residual="sum"``.
    """

    x: Float32
    logits: Float32
    integer_additions: bool = False


class Probe:
    """Runs a golden set; what it returns from without an error is the model that was meant.

    Args:
        tolerance: the largest difference of a logit; 0: every bit is equal; None: what `tolerance_for` says.
    """

    def __init__(self, golden: Golden, *, tolerance: float | None = None) -> None:
        self._golden = golden
        allowed = tolerance_for(integer_additions=golden.integer_additions)
        self._tolerance = allowed if tolerance is None else tolerance

    def __call__(self, model: Runs) -> None:
        """Raises: MismatchError: another logit came. What `model` raises."""
        got, wanted = model.run(self._golden.x), self._golden.logits
        if got.shape != wanted.shape:
            raise MismatchError(
                f"the probe gave logits {list(got.shape)}; wanted {list(wanted.shape)}: do not run this model"
            )
        off = self._off(got, wanted)
        if off.any():
            largest = float(np.abs(got.astype(np.float64) - wanted).max())
            raise MismatchError(
                f"{int(off.any(axis=1).sum())} of {len(wanted)} golden examples have other logits than where the model "
                f"was made, by up to {largest:.3g} (tolerance {self._tolerance:g}): do not run it on this machine"
            )

    def _off(self, got: Float32, wanted: Float32) -> NDArray[np.bool_]:
        if self._tolerance == 0:
            different: NDArray[np.bool_] = np.ascontiguousarray(got).view(np.uint32) != np.ascontiguousarray(
                wanted
            ).view(np.uint32)
            return different
        with np.errstate(invalid="ignore"):  # what is not finite is beyond any tolerance
            beyond: NDArray[np.bool_] = ~(np.abs(got.astype(np.float64) - wanted) <= self._tolerance)
        return beyond


def tolerance_for(machine: str = "", *, integer_additions: bool) -> float:
    """The tolerance that docs/quantization.md states for a `machine` (default: this one)."""
    arm64 = (machine or platform.machine()).lower() in ("aarch64", "arm64")
    return ARM64_RESIDUAL if arm64 and integer_additions else 0.0


def golden_beside(model: Path) -> Golden | None:
    """The golden set in ``golden.cbor`` beside a model, a map with the names of `Golden`; None: there is none.

    Raises:
        ConfigError: it is not one.
    """
    path = model.with_name(GOLDEN_NAME)
    if not path.exists():
        return None
    try:
        content = loads(read_bounded(path, _GOLDEN_BYTES), max_bytes=_GOLDEN_BYTES)
    except DecodeError as error:
        raise ConfigError(f"{path} is not a golden set: {error}") from error
    fields = content if isinstance(content, dict) and set(content) <= {"x", "logits", "integer_additions"} else {}
    x, logits, additions = fields.get("x"), fields.get("logits"), fields.get("integer_additions", False)
    said = isinstance(additions, bool)
    if not (
        said
        and _is_float32(x)
        and _is_float32(logits)
        and x.ndim > 1
        and logits.ndim == 2
        and 0 < len(x) == len(logits)
    ):
        raise ConfigError(f"{path} is not a golden set: wanted x [N, ...] and logits [N, C], float32")
    return Golden(x, logits, additions)


def _is_float32(value: object) -> TypeGuard[Float32]:
    return isinstance(value, np.ndarray) and value.dtype == np.float32
