"""A frozen int8 backbone in ONNX Runtime, from bytes that a server sent: examples in, features out. Needs no torch.

Guarantees: what an example's features are depends on that example and on the backbone alone, whatever the backbone is.
Examples are run one at a time, so that no graph can mix them, in operators that keep nothing (see
`fedmesh.quantization.inspection`). Clipping by example bounds nothing without that. Whether a backbone is refused
depends on no example either: it is tried on zeros. Does not guarantee: that it is the one of the round's weights.
"""

from typing import Any

import numpy as np

from fedmesh.errors import DecodeError
from fedmesh.quantization.inspection import inspect
from fedmesh.quantization.runtime import session_options
from fedmesh.types import Float32

__all__ = ["MAX_BACKBONE_BYTES", "Backbone"]

MAX_BACKBONE_BYTES = 1 << 24
"""Most that a backbone may take: a ResNet-18 takes 12 MB."""


class Backbone:
    """One backbone, loaded once.

    Args:
        data: an ONNX model, as `fedmesh.quantization.export_backbone` writes it.
        input_shape: of one example. width: numbers in its features.

    Raises:
        DecodeError: it is too large, holds what is not let through, cannot be loaded, or does not turn an example of
            zeros into finite features of this width.
    """

    def __init__(self, data: bytes, *, input_shape: tuple[int, ...], width: int) -> None:
        if len(data) > MAX_BACKBONE_BYTES:
            raise DecodeError(f"a backbone of {len(data)} bytes came; at most {MAX_BACKBONE_BYTES} are taken")
        inspect(data)
        self._session = _session(data)
        self._width = width
        ends = (self._session.get_inputs(), self._session.get_outputs())
        if [len(end) for end in ends] != [1, 1]:
            raise DecodeError("a backbone came with other than one input and one output: it is none of ours")
        self._input = ends[0][0].name
        probe = np.zeros((1, *input_shape), np.float32)
        try:
            found = self._session.run(None, {self._input: probe})[0]
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise DecodeError(f"the backbone that came does not take examples of shape {list(input_shape)}") from error
        if not self._sound(found) or not np.isfinite(found).all():
            raise DecodeError(
                f"the backbone that came answers an example of shape {list(input_shape)} with {_described(found)}; "
                f"wanted finite float32 [1, {width}]: the task and the server disagree about the model"
            )

    def features(self, x: Float32) -> Float32:
        """Features of each example, float32 [N, width]; an example that the backbone fails on has NaN.

        Args:
            x: float32 [N, *input_shape].
        """
        features = np.full((len(x), self._width), np.nan, np.float32)
        for index in range(len(x)):
            try:
                found = self._session.run(None, {self._input: x[index : index + 1]})[0]
            except Exception:  # noqa: BLE001, S112 - as above; it worked for zeros, so an error would tell of the data
                continue
            if self._sound(found):
                features[index] = found[0]
        return features

    def _sound(self, found: Any) -> bool:
        return isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == (1, self._width)


def _session(data: bytes) -> Any:
    import onnxruntime

    options = session_options()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors arrive as exceptions; a library does not write to stderr
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise DecodeError("the backbone that came is not a model that ONNX Runtime can run") from error


def _described(found: Any) -> str:
    if not isinstance(found, np.ndarray):
        return f"a {type(found).__name__}"
    return f"{found.dtype} {list(found.shape)}" + ("" if np.isfinite(found).all() else ", some of it not finite")
