"""Quantization-aware training whose int8 ONNX model is the same function, and the codec of weight deltas.

Names are loaded when they are first used: the codec needs numpy alone, the rest needs torch, onnx and onnxruntime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "backbone": ("check_backbone", "export_backbone", "head_of"),
    "checker": ("Agreement", "compare", "integer_kernels", "verify"),
    "export": ("export_float", "export_int8"),
    "head": ("Head",),
    "model": ("arrays_of", "fake_quantization", "load_arrays"),
    "preparation": ("prepare",),
    "ranges": ("calibrate", "load_ranges", "ranges_of"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
