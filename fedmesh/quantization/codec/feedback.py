"""Error feedback: what one round's quantization lost is sent in the next."""

from dataclasses import dataclass

import numpy as np

from fedmesh.quantization.codec.packets import DeltaCodec, require_length
from fedmesh.types import Arrays, Float32

__all__ = ["ErrorFeedback"]


@dataclass(slots=True, eq=False)
class ErrorFeedback:
    """Carries what quantization lost in one round into the next (Seide et al. 2014; Karimireddy et al. 2019).

    ``decoded packets + residual == sum of the deltas`` up to float32 rounding. Never together with DP: what a round
    clipped would come back in the next, past the accounting; the scenario and the client refuse the pair.

    Attributes:
        residual: float32 [P], what has not been sent yet; None before the first round.
    """

    residual: Float32 | None = None

    def encode_vector(self, codec: DeltaCodec, vector: Float32, rng: np.random.Generator) -> bytes:
        """The packet of `vector` [P] plus the residual, and the new residual.

        Raises:
            RoundError: a value is not finite; the residual is then unchanged.
            DecodeError: the vector or the residual is not of the codec's layout.
        """
        require_length(vector, codec.layout)
        if self.residual is not None:
            require_length(self.residual, codec.layout)
        whole = vector if self.residual is None else vector + self.residual
        codes = codec.quantize(whole, rng)
        self.residual = whole - codec.dequantize(codes)
        return codec.pack(codes)

    def encode(self, codec: DeltaCodec, arrays: Arrays, rng: np.random.Generator) -> bytes:
        """As `encode_vector`, from arrays."""
        return self.encode_vector(codec, codec.layout.flatten(arrays), rng)
