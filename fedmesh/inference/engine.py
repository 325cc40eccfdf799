"""An ONNX model in ONNX Runtime, with the session options that an int8 model needs to compute what it was trained to.

Guarantees: the digest is that of the bytes that run (the file is read once), and errors of ONNX Runtime leave as
`ConfigError`. Does not verify a signature: that is the registry's business. One engine may be used by many threads.

Options, measured (docs/inference.md): threads that wait do so asleep (`allow_spinning` 0: two threads that spin took 58
to 86 % of a core at 20 requests a second, and 1 to 4 % without), and there is no arena (as fast, and 6 to 10 MB less
after one large batch, because what a batch needed is given back).
"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DataError
from fedmesh.inference.prediction import Prediction, predictions
from fedmesh.inference.streaming import stream
from fedmesh.quantization.runtime import session_options
from fedmesh.types import Float32

__all__ = ["Engine"]

MAX_MODEL_BYTES = 2**31 - 1
"""A protocol buffer is no longer than this: a longer file cannot be a model that stands alone."""


class Engine:
    """One model, loaded once, run on a CPU.

    Attributes:
        path: where the model was read.
        sha256: of the file, hexadecimal.
        size_bytes: of the file.
        input_shape: of one batch; None where the model takes any size (the batch, as a rule).
        classes: logits of one example; None where the model does not say.

    Raises:
        ConfigError: no file, not an ONNX model, not one input and one output, or `threads` below 1.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        if threads < 1:
            raise ConfigError(f"threads is {threads}: an inference engine needs 1 or more")
        self.path = Path(path)
        data = _read(self.path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.size_bytes = len(data)
        self._session = _session(data, threads, self.path)
        self._input, self._output, self.input_shape, self.classes = _signature(self._session, self.path)

    def __repr__(self) -> str:
        return f"Engine({str(self.path)!r}, sha256={self.sha256[:12]}, input_shape={self.input_shape})"

    def run(self, x: NDArray[Any], *, batch_size: int = 256) -> Float32:
        """Logits, float32 [N, classes].

        Args:
            x: examples [N, ...] in the shape that the model takes, converted to float32.
            batch_size: how many go in at once; a model with a fixed batch is fed that many, the last batch padded.

        Raises:
            DataError: the shape is not the model's, or there is no example.
            ConfigError: the model fails on it.
        """
        x = self._fitting(x)
        return np.concatenate([self._logits(batch)[:count] for batch, count in self._batches(x, batch_size)])

    def predict(self, x: NDArray[Any], *, batch_size: int = 256) -> list[Prediction]:
        """A label for each example of `x` [N, ...], as `run` takes them; `seconds` are those of the whole call.

        Raises:
            DataError, ConfigError: as `run`.
            NotFiniteError: the logits are not finite.
        """
        start = time.perf_counter()
        logits = self.run(x, batch_size=batch_size)
        return predictions(logits, model=self.sha256, seconds=time.perf_counter() - start)

    def stream(
        self, examples: Iterable[NDArray[Any]], *, batch_size: int = 16, ahead: int = 32
    ) -> Iterator[Prediction]:
        """A label for each of `examples` [...], in their order, as `fedmesh.inference.streaming.stream` says."""
        return stream(self, examples, batch_size=batch_size, ahead=ahead)

    def warm_up(self, runs: int = 2) -> None:
        """Runs on zeros, so that the first request is as fast as the next; nothing where the shape is open."""
        shape = [self.input_shape[0] or 1, *self.input_shape[1:]]
        if None not in shape:
            for _ in range(runs):
                self._logits(np.zeros([size or 1 for size in shape], np.float32))

    def measure(self, x: NDArray[Any], *, runs: int = 200, warm_up: int = 20) -> NDArray[np.float64]:
        """Milliseconds of each of `runs` runs on one example (a fixed batch where the model has one), in turn from `x`.

        Raises: as `run`.
        """
        x = self._fitting(x)
        size = self.input_shape[0] or 1
        inputs = [_padded(x[i : i + size], size) for i in range(0, min(len(x), runs * size), size)]
        for index in range(warm_up):
            self._logits(inputs[index % len(inputs)])
        spent = np.empty(runs)
        for index in range(runs):
            one = inputs[index % len(inputs)]
            start = time.perf_counter()
            self._logits(one)
            spent[index] = time.perf_counter() - start
        return spent * 1e3

    def _logits(self, batch: Float32) -> Float32:
        try:
            (logits,) = self._session.run([self._output], {self._input: batch})
        except _onnxruntime_errors() as error:
            raise ConfigError(f"{self.path} fails in ONNX Runtime on a batch {list(batch.shape)}: {error}") from error
        result: Float32 = np.asarray(logits, np.float32)
        return result

    def _batches(self, x: Float32, batch_size: int) -> Iterator[tuple[Float32, int]]:
        size = self.input_shape[0] or batch_size
        for start in range(0, len(x), size):
            batch = x[start : start + size]
            yield (_padded(batch, size) if self.input_shape[0] else batch), len(batch)

    def _fitting(self, x: NDArray[Any]) -> Float32:
        wanted = self.input_shape[1:]
        got = x.shape[1:]
        if len(got) != len(wanted) or any(w not in (None, g) for g, w in zip(got, wanted, strict=True)):
            takes = ", ".join("any" if size is None else str(size) for size in wanted)
            raise DataError(
                f"the examples have shape {list(got)}, {self.path.name} takes [{takes}]: "
                "use the data set that it was trained on"
            )
        if not len(x):
            raise DataError("there is no example to run: the data set is empty")
        return np.ascontiguousarray(x, np.float32)


def _padded(batch: Float32, size: int) -> Float32:
    """`batch` brought to `size` examples by repeating its last one."""
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise ConfigError(f"{path} is larger than 2 GiB: that is not an ONNX model in one file")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the model {path} cannot be read: {error.strerror or error}") from error


def _session(data: bytes, threads: int, path: Path) -> Any:
    import onnxruntime as ort

    options = session_options(threads=threads)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors arrive as exceptions; a library does not write to stderr
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except _onnxruntime_errors() as error:
        raise ConfigError(
            f"{path} is not an ONNX model that ONNX Runtime {ort.__version__} can run: {_reason(error)}"
        ) from error


def _signature(session: Any, path: Path) -> tuple[str, str, tuple[int | None, ...], int | None]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or not outputs or inputs[0].type != "tensor(float)" or not inputs[0].shape:
        got = ", ".join(f"{i.name}: {i.type}{list(i.shape or [])}" for i in inputs) or "none"
        raise ConfigError(f"{path} has the inputs {got}; wanted one float32 tensor of a batch of examples")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
    last = outputs[0].shape[-1] if outputs[0].shape else None
    return inputs[0].name, outputs[0].name, shape, last if isinstance(last, int) else None


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its prefix of codes."""
    text = str(error).strip().splitlines()
    return text[0].rpartition(" : ")[2] if text else type(error).__name__


@cache
def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Every exception that the binding declares (they share no base class), and the built-in ones that it raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    declared = [value for value in vars(binding).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (RuntimeError, ValueError, TypeError, *declared)
