"""Quantization-aware training whose int8 ONNX model is the same function, and the codec of weight deltas.

Names are loaded when they are first used: the codec needs numpy alone, the rest needs torch, onnx and onnxruntime.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.quantization.backbone import check_backbone, export_backbone, head_of
    from fedmesh.quantization.checker import Agreement, compare, integer_kernels, verify
    from fedmesh.quantization.export import export_float, export_int8
    from fedmesh.quantization.head import Head
    from fedmesh.quantization.model import arrays_of, fake_quantization, load_arrays
    from fedmesh.quantization.preparation import prepare
    from fedmesh.quantization.ranges import calibrate, load_ranges, ranges_of

__all__ = [
    "Agreement",
    "Head",
    "arrays_of",
    "calibrate",
    "check_backbone",
    "compare",
    "export_backbone",
    "export_float",
    "export_int8",
    "fake_quantization",
    "head_of",
    "integer_kernels",
    "load_arrays",
    "load_ranges",
    "prepare",
    "ranges_of",
    "verify",
]

_HOME = {
    "Agreement": "checker",
    "Head": "head",
    "arrays_of": "model",
    "calibrate": "ranges",
    "check_backbone": "backbone",
    "compare": "checker",
    "export_backbone": "backbone",
    "export_float": "export",
    "export_int8": "export",
    "fake_quantization": "model",
    "head_of": "backbone",
    "integer_kernels": "checker",
    "load_arrays": "model",
    "load_ranges": "ranges",
    "prepare": "preparation",
    "ranges_of": "ranges",
    "verify": "checker",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
