"""Examples as they come: small batches of what is there, and windows that slide over the samples of a sensor.

A reader of its own takes examples from the source while a batch runs, so the size of a batch follows the load: one
example when the source is slow (nothing waits for a batch to fill), `batch_size` when it is fast.
"""

import queue
from collections.abc import Iterable, Iterator
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DataError
from fedmesh.inference.prediction import Prediction, Predictor
from fedmesh.types import Float32

__all__ = ["stream", "windows"]

_LOOK_S = 0.1  # how often a reader whose queue is full looks whether anybody still wants what it has


class _End:
    """The source ended, with or without an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def stream(
    model: Predictor, examples: Iterable[NDArray[Any]], *, batch_size: int = 16, ahead: int = 32
) -> Iterator[Prediction]:
    """A prediction for each of `examples` [...], in their order.

    Args:
        model: what predicts.
        examples: the source, read in a thread of its own.
        batch_size: how many go in at once, at most.
        ahead: how many may wait; the source is read no further then.

    When the iterator is closed the source is read no more; a source that blocks for ever keeps its (daemon) thread.

    Raises:
        DataError: an example has another shape than the one before.
        Whatever the source or the model raises, after the predictions of what came before.
    """
    if batch_size < 1 or ahead < 1:
        raise ConfigError(f"batch_size is {batch_size} and ahead {ahead}: both have to be 1 or more")
    return _predicted(model, examples, batch_size, ahead)


def _predicted(model: Predictor, examples: Iterable[NDArray[Any]], batch_size: int, ahead: int) -> Iterator[Prediction]:
    waiting: queue.Queue[NDArray[Any] | _End] = queue.Queue(ahead)
    closed = Event()
    Thread(target=_read, args=(examples, waiting, closed), name="fedmesh-stream", daemon=True).start()
    try:
        end: _End | None = None
        while end is None:
            batch, end = _taken(waiting, batch_size)
            if batch:
                yield from model.predict(_stacked(batch))
        if end.error is not None:
            raise end.error
    finally:
        closed.set()


def _read(examples: Iterable[NDArray[Any]], waiting: "queue.Queue[NDArray[Any] | _End]", closed: Event) -> None:
    end = _End()
    try:
        for example in examples:
            if not _put(waiting, example, closed):
                return
    except BaseException as error:  # noqa: BLE001 - it is raised where the predictions are read
        end = _End(error)
    _put(waiting, end, closed)


def _put(waiting: "queue.Queue[NDArray[Any] | _End]", item: NDArray[Any] | _End, closed: Event) -> bool:
    while not closed.is_set():
        try:
            waiting.put(item, timeout=_LOOK_S)
        except queue.Full:
            continue
        return True
    return False


def _taken(waiting: "queue.Queue[NDArray[Any] | _End]", at_most: int) -> tuple[list[NDArray[Any]], _End | None]:
    """At least one item, and what else is there already."""
    batch: list[NDArray[Any]] = []
    item = waiting.get()
    while not isinstance(item, _End):
        batch.append(item)
        if len(batch) == at_most or waiting.empty():
            return batch, None
        item = waiting.get()
    return batch, item


def _stacked(batch: list[NDArray[Any]]) -> NDArray[Any]:
    try:
        return np.stack(batch)
    except ValueError as error:
        shapes = " and ".join(sorted({str(list(np.shape(example))) for example in batch}))
        raise DataError(f"a stream holds examples of the shapes {shapes}; wanted one shape") from error


def windows(samples: Iterable[NDArray[Any]], size: int, step: int) -> Iterator[Float32]:
    """Windows [channels, size] over `samples`, each [channels], a new one every `step` samples.

    A sample that is not finite is a gap: no window spans it, the next begins behind it. Samples at the end that fill no
    window are dropped, and where `step` is above `size` those in between.

    Raises:
        ConfigError: `size` or `step` is below 1.
        DataError: a sample has another shape than the first.
    """
    if size < 1 or step < 1:
        raise ConfigError(f"a window of {size} samples every {step}: both have to be 1 or more")
    return _windows(samples, size, step)


def _windows(samples: Iterable[NDArray[Any]], size: int, step: int) -> Iterator[Float32]:
    held: Float32 | None = None
    filled = skip = 0
    for sample in samples:
        values = np.asarray(sample, np.float32)
        if held is None and values.ndim == 1:
            held = np.empty((len(values), size), np.float32)
        if held is None or values.shape != held.shape[:1]:
            wanted = "[channels]" if held is None else str([len(held)])
            raise DataError(f"a sample of shape {list(values.shape)} came; wanted {wanted}")
        if not np.isfinite(values).all():
            filled = skip = 0
        elif skip:
            skip -= 1
        else:
            held[:, filled] = values
            filled += 1
        if filled == size:
            yield held.copy()
            filled, skip = max(size - step, 0), max(step - size, 0)
            held[:, :filled] = held[:, size - filled :].copy()
