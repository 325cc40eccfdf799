"""ONNX Runtime sessions in which int8 arithmetic is exact, and as fast as this CPU allows. Needs no torch and no onnx.

x86 CPUs without VNNI multiply u8 * s8 pairs into saturating 16-bit sums: logits are off by 4-50 % of their spread. ONNX
Runtime's precision mode (`session.x64quantprecision`) goes around these instructions. With VNNI the products are exact
anyway, and the precision mode would cost a factor of 2.7 (ResNet-18 on a CPU with AVX512-VNNI and AMX), so it is off.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["cpu_flags", "keep_products_exact", "products_saturate", "session_options"]

_VNNI = {"avx_vnni", "avx512_vnni"}


@cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The CPU's feature flags as Linux spells them; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    listed = (line.partition(":") for line in lines)
    return frozenset(next((flags.split() for key, _, flags in listed if key.strip() in ("flags", "Features")), []))


def products_saturate(machine: str, flags: frozenset[str]) -> bool:
    """Whether u8 * s8 products may saturate: x86 without VNNI, or that does not say so."""
    return machine.lower() in ("x86_64", "amd64", "i686", "x86") and not flags & _VNNI


def session_options(*, threads: int = 1) -> Any:
    """`onnxruntime.SessionOptions` with `threads` threads for one operator, warnings off and exact int8 products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    keep_products_exact(options)
    return options


def keep_products_exact(options: Any) -> None:
    """Switches the precision mode of an `onnxruntime.SessionOptions` on where this CPU needs it."""
    if products_saturate(platform.machine(), cpu_flags()):
        options.add_session_config_entry("session.x64quantprecision", "1")
