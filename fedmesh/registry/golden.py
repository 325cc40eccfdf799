"""A golden set: a few public examples and what the model has to say to each, bit for bit where the tolerance is 0.

It shows that a model was carried, and computes here, as it did where it was made; not that it is a good one. A file of
its own beside the model, vouched for by the manifest. Running it is for whoever has an engine (`fedmesh.inference`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fedmesh.errors import RegistryError
from fedmesh.files import read_bounded
from fedmesh.registry.fields import Fields
from fedmesh.registry.limits import Limits
from fedmesh.wire import dumps

if TYPE_CHECKING:
    from fedmesh.types import Float32

__all__ = ["GoldenSet"]

_FORMAT = "fedmesh-golden/1"
_MOST_BYTES = Limits().golden_bytes


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Inputs and what must come of them.

    Attributes:
        inputs: float32 [N, ...], one or more.
        logits: float32 [N, classes].
        tolerance: the largest absolute difference of a logit that is still the same model; 0: none.

    Raises:
        RegistryError: ``malformed``.
    """

    inputs: "Float32"
    logits: "Float32"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        import numpy as np

        if not all(part.dtype == np.float32 and np.isfinite(part).all() for part in (self.inputs, self.logits)):
            raise _malformed("the inputs and logits of a golden set are finite float32")
        if (
            self.inputs.ndim < 2
            or self.logits.ndim != 2
            or len(self.inputs) != len(self.logits)
            or not self.logits.size
        ):
            shapes = f"{list(self.inputs.shape)} and {list(self.logits.shape)}"
            raise _malformed(
                f"inputs and logits of the shapes {shapes} are no golden set: as many of one as of the other"
            )
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise _malformed(f"a golden set cannot have a tolerance of {self.tolerance}")

    def agrees(self, logits: "Float32") -> bool:
        """Whether these logits are the expected ones. False for another shape, and for what is not a number."""
        import numpy as np

        if logits.shape != self.logits.shape:
            return False
        difference = np.abs(logits.astype(np.float64) - self.logits)
        return bool((difference <= self.tolerance).all())

    def encode(self) -> bytes:
        """The file's content."""
        return dumps(
            {"format": _FORMAT, "inputs": self.inputs, "logits": self.logits, "tolerance": float(self.tolerance)}
        )

    @classmethod
    def decode(cls, data: bytes, *, max_bytes: int = _MOST_BYTES) -> Self:
        """The set in a file's content. Raises: RegistryError: ``malformed``: it is none."""
        import numpy as np

        fields = Fields.read(data, _FORMAT, max_bytes=max_bytes)
        inputs, logits = fields.take("inputs", np.ndarray), fields.take("logits", np.ndarray)
        made = cls(inputs, logits, fields.take("tolerance", float))
        fields.finish()
        return made

    @classmethod
    def load(cls, path: Path, *, max_bytes: int = _MOST_BYTES) -> Self:
        """The set in a file. Raises: ConfigError: it cannot be read; RegistryError: as `decode`."""
        return cls.decode(read_bounded(path, max_bytes, called="the golden set"), max_bytes=max_bytes)


def _malformed(message: str) -> RegistryError:
    return RegistryError(message, code="malformed")
