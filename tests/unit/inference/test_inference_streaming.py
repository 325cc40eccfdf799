"""A stream keeps the order, follows the load, is bounded, and ends when it should; windows never span a gap."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served_models import write_linear

from fedmesh.errors import ConfigError, DataError
from fedmesh.inference import Engine, Prediction, stream, windows


class Recorder:
    """Predicts the first value of an example as its label, and keeps the sizes of batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, x: np.ndarray) -> list[Prediction]:
        self.gate.wait(120)
        self.sizes.append(len(x))
        return [Prediction(int(one.flat[0]), 1.0, "m", 0.0) for one in x]


def numbered(count: int) -> Iterator[np.ndarray]:
    return (np.array([index, 0], np.float32) for index in range(count))


def test_an_engine_streams_as_it_predicts(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write_linear(tmp_path / "m.onnx", rng.normal(size=(4, 3)))
    engine, x = Engine(tmp_path / "m.onnx"), rng.normal(size=(103, 4)).astype(np.float32)
    assert [one.label for one in engine.stream(iter(x), batch_size=7)] == [one.label for one in engine.predict(x)]


def test_order_and_bounds() -> None:
    model = Recorder()
    assert [one.label for one in stream(model, numbered(200), batch_size=8)] == list(range(200))
    assert sum(model.sizes) == 200
    assert max(model.sizes) <= 8


def test_an_example_does_not_wait_for_a_batch_to_fill() -> None:
    asked: threading.Semaphore = threading.Semaphore(0)

    def slow() -> Iterator[np.ndarray]:
        for index in range(3):
            assert asked.acquire(timeout=120)  # the next example comes only after the last prediction was read
            yield np.array([index], np.float32)

    model, labels = Recorder(), []
    found = stream(model, slow(), batch_size=16)
    for _ in range(3):
        asked.release()
        labels.append(next(found).label)
    assert labels == [0, 1, 2]
    assert model.sizes == [1, 1, 1]


def test_the_source_is_read_no_further_than_allowed() -> None:
    model, taken, others = Recorder(), [], threading.enumerate()

    def source() -> Iterator[np.ndarray]:
        for index in range(1000):
            taken.append(index)
            yield np.array([index], np.float32)

    found = stream(model, source(), batch_size=4, ahead=8)
    next(found)
    threading.Event().wait(0.3)
    assert len(taken) <= 4 * 2 + 8 + 2  # a batch read, one more waiting, and the example in hand
    (reader,) = [thread for thread in threading.enumerate() if thread not in others]
    found.close()
    reader.join(120)
    assert not reader.is_alive()
    assert len(taken) < 1000


def test_errors_of_the_source_come_after_what_was_good() -> None:
    def source() -> Iterator[np.ndarray]:
        yield from numbered(5)
        raise RuntimeError("the sensor is gone")

    found = stream(Recorder(), source())
    assert [next(found).label for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="sensor"):
        next(found)


def test_shapes_that_differ_in_a_batch() -> None:
    model = Recorder()
    model.gate.clear()

    def source() -> Iterator[np.ndarray]:
        yield from [np.zeros(2), *[np.zeros(2), np.zeros(3)] * 10]
        model.gate.set()  # the first batch ran until here, and what has gathered is the second

    found = stream(model, source(), batch_size=64, ahead=64)
    with pytest.raises(DataError, match=r"shapes \[2\] and \[3\]"):
        list(found)


def test_nothing_streams_to_nothing() -> None:
    assert list(stream(Recorder(), iter([]))) == []


@pytest.mark.parametrize(("batch_size", "ahead"), [(0, 1), (1, 0)])
def test_bounds_below_one(batch_size: int, ahead: int) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        stream(Recorder(), iter([]), batch_size=batch_size, ahead=ahead)


@pytest.mark.parametrize(("size", "step"), [(4, 1), (4, 2), (4, 4), (4, 7), (1, 1), (3, 5)])
def test_windows_are_slices(size: int, step: int) -> None:
    samples = np.arange(60, dtype=np.float32).reshape(30, 2)
    wanted = [samples[start : start + size].T for start in range(0, 30 - size + 1, step)]
    np.testing.assert_array_equal(list(windows(samples, size, step)), wanted)


def test_windows_are_copies() -> None:
    found = list(windows(np.arange(6, dtype=np.float32).reshape(6, 1), 3, 1))
    found[0][:] = -1
    np.testing.assert_array_equal(found[1], [[1, 2, 3]])


def test_no_window_spans_a_gap() -> None:
    samples = np.arange(12, dtype=np.float32).reshape(12, 1)
    samples[5] = np.nan
    assert [window[0].tolist() for window in windows(samples, 3, 2)] == [[0, 1, 2], [2, 3, 4], [6, 7, 8], [8, 9, 10]]


def test_samples_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"shape \[3\] came; wanted \[2\]"):
        list(windows([np.zeros(2), np.zeros(3)], 4, 2))
    with pytest.raises(DataError, match=r"wanted \[channels\]"):
        list(windows([np.zeros((2, 2))], 4, 2))
    with pytest.raises(ConfigError, match="1 or more"):
        windows([], 0, 1)


def test_windows_of_a_wearable_through_a_model(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx", np.eye(6)[:, :3])

    class Flat:
        def __init__(self) -> None:
            self.engine = Engine(tmp_path / "m.onnx")

        def predict(self, x: np.ndarray) -> list[Prediction]:
            return self.engine.predict(x.reshape(len(x), -1))

    samples = np.zeros((8, 3), np.float32)
    samples[:, 1] = 1
    assert len(list(stream(Flat(), windows(samples, 2, 2)))) == 4
