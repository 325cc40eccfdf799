"""Exactness, size and latency of int8 models, and the cost of training them: ``python -m benchmarks.quantization``.

Each architecture is prepared with power-of-two scales and compared on random inputs with its ONNX file; latencies are
those of one image on one thread, float and int8 measured in turn in the same run.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from fedmesh.quantization import (
    calibrate,
    compare,
    export_float,
    export_int8,
    fake_quantization,
    integer_kernels,
    prepare,
)
from fedmesh.quantization.runtime import cpu_flags, session_options
from fedmesh.testing.architectures import har_cnn, lenet, mobilenet_v2, randomize_norms, resnet18

ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "HAR conv1d": (har_cnn, (9, 128)),
    "LeNet": (lenet, (3, 32, 32)),
    "ResNet-18 narrow": (lambda: resnet18(10, 16), (3, 32, 32)),
    "ResNet-18 224": (resnet18, (3, 224, 224)),
    "MobileNetV2 224": (mobilenet_v2, (3, 224, 224)),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture: bytes of the files, milliseconds of one forward, and the comparison."""

    model: str
    parameters: int
    inputs: int
    max_abs_logit_difference: float
    argmax_agreement: float
    kernels: dict[str, int]
    bytes_float: int
    bytes_int8: int
    float_p50_ms: float
    int8_p50_ms: float

    @property
    def size_ratio(self) -> float:
        return self.bytes_int8 / self.bytes_float

    @property
    def speedup(self) -> float:
        return self.float_p50_ms / self.int8_p50_ms


@dataclass(frozen=True, slots=True)
class Training:
    """Milliseconds of one plain SGD step, median, one thread."""

    model: str
    batch_size: int
    float_ms: float
    disabled_ms: float
    qat_ms: float


def _prepared(name: str) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    build, shape = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
    generator = torch.Generator().manual_seed(1)
    randomize_norms(model, generator)
    model.train()
    with torch.no_grad():  # a few batches, so that the running statistics are those of these weights
        for _ in range(20):
            model(torch.randn(8, *shape, generator=generator))
    graph = prepare(model, torch.zeros(1, *shape))
    calibrate(graph, torch.split(torch.randn(32, *shape, generator=generator), 8))
    return model, graph, shape


def measure_model(name: str, count: int, repeats: int) -> Row:
    _, graph, shape = _prepared(name)
    example = torch.zeros(1, *shape)
    with tempfile.TemporaryDirectory() as folder:
        int8, plain = Path(folder) / "int8.onnx", Path(folder) / "float.onnx"
        export_int8(graph, int8, example=example)
        export_float(graph, plain, example=example)
        inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(2))
        agreement = compare(graph, int8, inputs, batch_size=50)
        float_ms, int8_ms = _latencies(plain, int8, inputs[:1], repeats)
        return Row(
            model=name,
            parameters=sum(p.numel() for p in graph.parameters()),
            inputs=count,
            max_abs_logit_difference=agreement.max_abs_logit_difference,
            argmax_agreement=agreement.argmax_agreement,
            kernels=dict(integer_kernels(int8)),
            bytes_float=plain.stat().st_size,
            bytes_int8=int8.stat().st_size,
            float_p50_ms=float_ms,
            int8_p50_ms=int8_ms,
        )


def _latencies(plain: Path, int8: Path, x: Tensor, repeats: int) -> tuple[float, float]:
    """Median ms of the two models, run in turn so that a busy machine slows both."""
    sessions = [_session(plain), _session(int8)]
    feed = {"input": x.numpy()}
    times: list[list[float]] = [[], []]
    for index in range(repeats + 5):
        for session, mine in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            if index >= 5:
                mine.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times[0])), float(np.median(times[1]))


def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])


def measure_training(name: str, batch_size: int, repeats: int) -> Training:
    model, graph, shape = _prepared(name)
    _, disabled, _ = _prepared(name)
    fake_quantization(disabled, False)
    models = [model, disabled, graph]
    x = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(3))
    y = torch.arange(batch_size) % 2
    times: list[list[float]] = [[], [], []]
    for index in range(repeats + 10):
        for candidate, mine in zip(models, times, strict=True):
            start = time.perf_counter()
            _step(candidate, x, y)
            if index >= 10:
                mine.append((time.perf_counter() - start) * 1e3)
    return Training(name, batch_size, *(float(np.median(mine)) for mine in times))


def _step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    parameters: list[Tensor] = list(model.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    with torch.no_grad():
        torch._foreach_add_(parameters, gradients, alpha=-1e-3)


def cpu_features() -> dict[str, Any]:
    """The instruction sets that decide over int8 speed, where the system tells them."""
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    return {"machine": platform.machine(), "features": [flag for flag in wanted if flag in cpu_flags()]}


_COLUMNS = (
    "model", "params", "inputs", "max |diff|", "argmax", "kB float", "kB int8", "ratio", "ms float", "ms int8", "speed",
)  # fmt: skip


def _print(rows: list[Row], training: list[Training], cpu: dict[str, Any]) -> None:
    console = Console(width=max(110, Console().width))
    table = Table(title=f"int8 against float, one thread, {cpu['machine']} {' '.join(cpu['features'])}")
    for column in (
        "model",
        "params",
        "inputs",
        "max |diff|",
        "argmax",
        "kB float",
        "kB int8",
        "ratio",
        "ms float",
        "ms int8",
        "speed",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(
            row.model,
            f"{row.parameters / 1e3:,.0f}k",
            str(row.inputs),
            f"{row.max_abs_logit_difference:g}",
            f"{row.argmax_agreement:.3f}",
            f"{row.bytes_float / 1e3:,.0f}",
            f"{row.bytes_int8 / 1e3:,.0f}",
            f"{row.size_ratio:.3f}",
            f"{row.float_p50_ms:.3f}",
            f"{row.int8_p50_ms:.3f}",
            f"{row.speedup:.1f}x",
        )
    console.print(table)
    table = Table(title="one plain SGD step, ms")
    for column in ("model", "batch", "float", "prepared, disabled", "quantization-aware", "cost"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for one in training:
        cost = f"{one.qat_ms / one.float_ms - 1:+.0%}"
        table.add_row(
            one.model, str(one.batch_size), f"{one.float_ms:.2f}", f"{one.disabled_ms:.2f}", f"{one.qat_ms:.2f}", cost
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    parser.add_argument("--inputs", type=int, default=1000, help="inputs to compare on (default 1000)")
    parser.add_argument("--repeats", type=int, default=100, help="runs per latency (default 100)")
    parser.add_argument("--models", nargs="*", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in options.models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows.append(measure_model(name, options.inputs, options.repeats))
    training = [measure_training(name, 10, options.repeats) for name in ("LeNet", "HAR conv1d")]
    cpu = cpu_features()
    if options.json:
        models = [asdict(row) | {"size_ratio": row.size_ratio, "speedup": row.speedup} for row in rows]
        print(json.dumps({"cpu": cpu, "models": models, "training": [asdict(one) for one in training]}, indent=2))
    else:
        _print(rows, training, cpu)


if __name__ == "__main__":
    main()
