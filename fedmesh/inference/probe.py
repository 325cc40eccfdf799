"""Whether a model, on this machine, computes what it computed where it was made: its golden set.

Bit for bit, because int8 layers are exact on every CPU that docs/quantization.md names, unless the set states a
tolerance: sets of models with the one exception stated there do.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, MismatchError, RegistryError
from fedmesh.inference.engine import Engine
from fedmesh.registry import GoldenSet
from fedmesh.types import Float32

__all__ = ["ARM64_RESIDUAL", "Probe", "golden_set", "probe"]

ARM64_RESIDUAL = 2e-3
"""How far logits of a model with QLinearAdd were seen to be off on arm64."""

_GOLDEN = "golden.cbor"
_GOLDEN_EXAMPLES = 16


class Runs(Protocol):
    """What can be probed."""

    def run(self, x: NDArray[Any]) -> Float32:
        """Logits, float32 [N, classes]."""
        ...


class Probe:
    """Runs a golden set; what it returns from without an error is the model that was meant."""

    def __init__(self, golden: GoldenSet) -> None:
        self._golden = golden

    def __call__(self, model: Runs) -> None:
        """Raises: MismatchError: another logit came. What `model` raises."""
        got, wanted = model.run(self._golden.inputs), self._golden.logits
        if got.shape != wanted.shape:
            raise MismatchError(
                f"the probe gave logits {list(got.shape)}; wanted {list(wanted.shape)}: do not run this model"
            )
        off = self._off(got, wanted)
        if off.any():
            largest = float(np.abs(got.astype(np.float64) - wanted).max())
            raise MismatchError(
                f"{int(off.any(axis=1).sum())} of {len(wanted)} golden examples have other logits than where the model "
                f"was made, by up to {largest:.3g} (tolerance {self._golden.tolerance:g}): do not run it on this "
                "machine"
            )

    def _off(self, got: Float32, wanted: Float32) -> NDArray[np.bool_]:
        if self._golden.tolerance == 0:
            different: NDArray[np.bool_] = np.ascontiguousarray(got).view(np.uint32) != np.ascontiguousarray(
                wanted
            ).view(np.uint32)
            return different
        with np.errstate(invalid="ignore"):  # what is not finite is beyond any tolerance
            beyond: NDArray[np.bool_] = ~(np.abs(got.astype(np.float64) - wanted) <= self._golden.tolerance)
        return beyond


def golden_set(engine: Engine, examples: Float32) -> GoldenSet:
    """A golden set of `engine` out of the first 16 of `examples` [N, ...], which have to be public.

    Its tolerance is 0, or for a model that adds in QLinearAdd what that is off by on arm64.

    Raises: as `Engine.run`.
    """
    inputs = np.ascontiguousarray(examples[:_GOLDEN_EXAMPLES], np.float32)
    tolerance = ARM64_RESIDUAL if b"QLinearAdd" in engine.path.read_bytes() else 0.0
    return GoldenSet(inputs, engine.run(inputs), tolerance)


def probe(engine: Engine) -> None:
    """Runs `engine` on zeros, and on the golden set in ``golden.cbor`` beside its file, where there is one.

    Raises:
        MismatchError: another logit came. ConfigError: that is no golden set. What the engine raises.
    """
    engine.warm_up()
    beside = engine.path.with_name(_GOLDEN)
    if not beside.exists():
        return
    try:
        golden = GoldenSet.load(beside)
    except RegistryError as error:
        raise ConfigError(f"{beside} is not a golden set: {error}") from error
    Probe(golden)(engine)
