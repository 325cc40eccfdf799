"""What the operating system says about processor and memory. Linux in full; elsewhere what Python knows."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmesh.machine import cores
from fedmesh.quantization.runtime import cpu_flags

__all__ = ["CpuFacts", "cpu_facts", "memory_bytes"]

# Flag in /proc/cpuinfo -> the name that processor manuals use. In order of interest.
_FEATURES: Mapping[str, str] = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "amx_int8": "AMX-INT8",
    "asimd": "NEON",
    "asimddp": "dotprod",
    "i8mm": "I8MM",
    "sve": "SVE",
}
_DOT_PRODUCT = frozenset({"AVX-VNNI", "AVX512-VNNI", "AMX-INT8", "dotprod", "I8MM"})


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """Attributes: features: instruction sets that matter to int8 inference, by their names in manuals."""

    model: str
    cores: int
    usable_cores: int
    features: tuple[str, ...]

    @property
    def int8_dot_product(self) -> bool:
        """Whether four int8 products are summed in one instruction."""
        return bool(_DOT_PRODUCT & set(self.features))


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuFacts:
    """The processor that this process runs on."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = cpu_flags(cpuinfo)
    model = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    features = tuple(name for flag, name in _FEATURES.items() if flag in flags)
    return CpuFacts(model, os.cpu_count() or 1, cores(), features)


def memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """Total and available memory; None where the system does not say."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError):
        return None, None
    return sizes.get("MemTotal"), sizes.get("MemAvailable")
