"""What `doctor` looks at. Each check is a fact about this machine and, where it matters, what to do."""

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fedmesh import __version__, plugins
from fedmesh.cli.machine import CpuFacts, cpu_facts, memory_bytes

__all__ = ["Check", "examine"]

BASE = ("numpy", "onnxruntime", "cryptography", "pycryptodome", "cbor2", "paho-mqtt", "zeroconf", "pydantic", "tuf")
TRAIN = ("torch", "opacus", "flwr", "onnx", "dp-accounting")
SIMULATION = ("scikit-learn", "matplotlib")
LEAST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Check:
    """One fact. `failed` is what fedmesh cannot do without; a `note` limits what can be done."""

    name: str
    status: Literal["ok", "note", "failed"]
    detail: str
    advice: str = ""


def examine(folder: Path, data: Path | None, broker: str) -> list[Check]:
    """All checks, with runs written in `folder`, data sets in `data` and an MQTT broker at `broker`."""
    from fedmesh.cli.broker import look_for

    return [
        _python(),
        _packages("base packages", BASE, needed=True, extra=""),
        _packages("training", TRAIN, needed=False, extra="train"),
        _packages("simulation", SIMULATION, needed=False, extra="simulation"),
        _plugins(),
        _cpu(cpu_facts()),
        _memory(),
        _writable("runs", folder / "runs"),
        _writable("temporary", Path(tempfile.gettempdir())),
        _data_sets(data),
        look_for(broker),
    ]


def _python() -> Check:
    detail = f"{platform.python_version()}, fedmesh {__version__}, {platform.platform()}"
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "failed", detail, "fedmesh needs Python 3.11 or newer")
    return Check("python", "ok", detail)


def _packages(name: str, wanted: tuple[str, ...], *, needed: bool, extra: str) -> Check:
    found, missing = [], []
    for package in wanted:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Check(name, "ok", ", ".join(found))
    advice = f"pip install 'fedmesh[{extra}]'" if extra else "pip install --force-reinstall fedmesh"
    return Check(name, "failed" if needed else "note", f"missing: {', '.join(missing)}", advice)


def _plugins() -> Check:
    """Counts entry points; loading them would import torch."""
    groups = (plugins.STRATEGIES, plugins.CLIENTS, plugins.MODELS)
    found = {group.rpartition(".")[2]: plugins.available(group) for group in groups}
    detail = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in found.items())
    broken = sorted(
        point.value
        for names in found.values()
        for point in names.values()
        if find_spec(point.module.partition(".")[0]) is None
    )
    if broken:
        return Check("plug-ins", "failed", f"{detail}; without a module: {', '.join(broken)}", "install fedmesh anew")
    return Check("plug-ins", "ok" if all(found.values()) else "note", detail)


def _cpu(facts: CpuFacts) -> Check:
    detail = (
        f"{facts.model}, {facts.usable_cores} of {facts.cores} cores, {', '.join(facts.features) or 'no SIMD known'}"
    )
    if facts.int8_dot_product:
        return Check("processor", "ok", f"{detail}; int8 dot products in hardware")
    return Check(
        "processor", "note", detail, "no int8 dot product (VNNI, dotprod) found: int8 models are small, but not faster"
    )


def _memory() -> Check:
    total, available = memory_bytes()
    if total is None or available is None:
        return Check("memory", "note", "unknown on this system")
    detail = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB available"
    if available < 2**30:
        return Check("memory", "note", detail, "a simulation wants 1 GiB: use --workers 1, or inference only")
    return Check("memory", "ok", detail)


def _writable(name: str, folder: Path) -> Check:
    """Writes and syncs a file where runs go, as the journal does; leaves nothing behind."""
    place = folder if folder.is_dir() else folder.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"fedmesh")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(name, "failed", f"{place}: {error.strerror or error}", "change to a folder that can be written to")
    detail = f"{place} can be written, {free / 1e9:.1f} GB free"
    return Check(name, "ok" if free > 1e8 else "note", detail, "" if free > 1e8 else "free some space")


def _data_sets(data: Path | None) -> Check:
    if data is None:
        return Check("data sets", "note", "digits (built in)", "for others give their folder by --data or FEDMESH_DATA")
    if not data.is_dir():
        return Check("data sets", "failed", f"{data} is not a folder", "correct --data or FEDMESH_DATA")
    known = {"fashion": "fashion-mnist", "har": "uci-har"}
    found = [name for name, folder in known.items() if (data / folder).is_dir()]
    missing = [f"{name} ({data / folder})" for name, folder in known.items() if name not in found]
    detail = f"digits (built in){''.join(f', {name}' for name in found)}"
    return Check(
        "data sets", "ok" if not missing else "note", detail, f"not there: {', '.join(missing)}" if missing else ""
    )
