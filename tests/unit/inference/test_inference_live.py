"""Swaps drop nothing and mix nothing; bad models are refused or rolled back; old ones are let go."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served_models import FEATURES, write_constant, write_failing

from fedmesh.errors import ConfigError, DataError, MismatchError, NotFiniteError
from fedmesh.events import Event, ModelProven, ModelSwapped, SwapUndone
from fedmesh.inference import Engine, HealthLimits, LiveModel, Verdict
from fedmesh.inference.probe import Probe, golden_set

X = np.zeros((3, FEATURES), np.float32)
ONE = X[:1]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Model k says k."""
    made = [tmp_path / f"{label}.onnx" for label in range(4)]
    for label, path in enumerate(made):
        write_constant(path, label)
    return made


def ask(live: LiveModel, times: int = 1) -> list[int]:
    return [live.predict(ONE)[0].label for _ in range(times)]


def test_no_request_is_dropped_or_mixed_in_a_hundred_swaps(paths: list[Path]) -> None:
    live = LiveModel(limits=HealthLimits(window=7))
    labels = {live.swap(path).sha256: label for label, path in enumerate(paths)}
    stop, counts, wrong = threading.Event(), [0] * 4, []

    def hammer(index: int) -> None:
        while not stop.is_set():
            found = live.predict(X)
            if len(found) != len(X) or any(labels[one.model] != one.label for one in found):
                wrong.append(found)
            if len({one.model for one in found}) != 1:
                wrong.append(found)
            counts[index] += 1

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(hammer, index) for index in range(4)]
        for number in range(100):
            live.swap(paths[number % 4])
        stop.set()
        for one in running:
            one.result()  # an exception in a request is raised here
    assert not wrong
    assert min(counts) > 0
    assert live.latency.read().count == sum(counts)


def test_the_old_model_is_dropped_when_its_last_request_ends(paths: list[Path]) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(Engine):
        def run(self, x, *, batch_size=256):
            if self.path == paths[0]:
                begun.set()
                assert go.wait(120)
            return super().run(x, batch_size=batch_size)

    live = LiveModel(load=Slow, check=lambda _engine: None, limits=HealthLimits(window=1))
    old = weakref.ref(live.swap(paths[0]))
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(live.predict, ONE)
        assert begun.wait(120)
        live.swap(paths[1])
        assert ask(live) == [1]  # the window of one request: the new one has proved itself
        assert not live.on_trial
        gc.collect()
        assert old() is not None  # its request still runs
        go.set()
        assert request.result()[0].label == 0
        del request
    gc.collect()
    assert old() is None


def test_the_one_before_stays_until_the_new_one_is_proven(paths: list[Path]) -> None:
    told: list[Event] = []
    verdicts: list[tuple[str, Verdict]] = []
    live = LiveModel(
        limits=HealthLimits(window=3),
        events=told.append,
        on_verdict=lambda sha256, verdict: verdicts.append((sha256, verdict)),
    )
    first, second = live.swap(paths[0]), live.swap(paths[1])
    assert live.on_trial
    ask(live, 2)
    live.tick()
    assert live.on_trial
    assert verdicts == []
    ask(live)
    assert not live.on_trial
    live.tick()
    assert verdicts == [(second.sha256, Verdict(good=True))]
    assert told == [
        ModelSwapped(first.sha256, ""),
        ModelSwapped(second.sha256, first.sha256),
        ModelProven(second.sha256),
    ]


def test_who_goes_back_to_the_one_before_ends_the_trial(paths: list[Path]) -> None:
    """It was proven once. Tried against itself, a machine that is busy would lose a device its only good model."""
    told: list[Event] = []
    verdicts: list[Verdict] = []
    live = LiveModel(
        limits=HealthLimits(window=1, slowdown=0.001, least_s=1e-12),
        events=told.append,
        on_verdict=lambda _sha256, verdict: verdicts.append(verdict),
    )
    first = live.swap(paths[0])
    for _ in range(10):  # so that its speed is known
        ask(live)
    second = live.swap(paths[1])
    live.swap(paths[0])
    assert (live.sha256, live.on_trial) == (first.sha256, False)
    ask(live)
    live.tick()
    assert verdicts == []
    assert told[-1] == ModelSwapped(first.sha256, second.sha256)


def test_a_model_that_gives_nan_is_rolled_back_and_nobody_notices(paths: list[Path], tmp_path: Path) -> None:
    bad = write_constant(tmp_path / "nan.onnx", 3, logit=float("nan"))
    told: list[Event] = []
    verdicts: list[Verdict] = []
    live = LiveModel(
        check=lambda _engine: None, events=told.append, on_verdict=lambda _sha256, verdict: verdicts.append(verdict)
    )
    good = live.swap(paths[1])
    live.swap(tmp_path / "nan.onnx")
    assert ask(live, 3) == [1, 1, 1]  # the very request that found it out is answered
    assert live.current is good
    assert not live.on_trial
    live.tick()
    live.tick()
    assert told[-1] == SwapUndone(bad, good.sha256, "its logits are not finite")
    assert len(verdicts) == 1
    assert not verdicts[0].good


def test_a_model_that_fails_on_requests_is_rolled_back(paths: list[Path], tmp_path: Path) -> None:
    write_failing(tmp_path / "fails.onnx", at_most=1)
    live = LiveModel(limits=HealthLimits(window=10, failures=0.25))
    good = live.swap(paths[2])
    live.swap(tmp_path / "fails.onnx")  # it runs on one example, as the warm-up asks
    for _ in range(2):
        assert [one.label for one in live.predict(X)] == [2, 2, 2]
        assert live.on_trial
    assert [one.label for one in live.predict(X)] == [2, 2, 2]
    assert live.current is good


def test_what_was_asked_wrongly_does_not_count_against_a_model(paths: list[Path]) -> None:
    live = LiveModel(limits=HealthLimits(window=2, failures=0))
    live.swap(paths[0])
    live.swap(paths[1])
    for _ in range(10):
        with pytest.raises(DataError):
            live.predict(np.zeros((1, 9), np.float32))
    assert live.on_trial
    assert ask(live, 2) == [1, 1]
    assert not live.on_trial


def test_an_example_that_both_fail_on_is_no_verdict(paths: list[Path]) -> None:
    class Fragile(Engine):
        def predict(self, x, *, batch_size=256):
            if x.max() > 1e30:
                raise NotFiniteError("overflow")
            return super().predict(x, batch_size=batch_size)

    live = LiveModel(load=Fragile)
    live.swap(paths[0])
    live.swap(paths[1])
    for _ in range(5):
        with pytest.raises(NotFiniteError):
            live.predict(np.full((1, FEATURES), 1e38, np.float32))
    assert live.on_trial
    assert ask(live) == [1]


def test_a_trial_within_a_trial_goes_back_to_the_last_good_one(paths: list[Path], tmp_path: Path) -> None:
    write_constant(tmp_path / "nan.onnx", 3, logit=float("nan"))
    live = LiveModel(check=lambda _engine: None)
    good = live.swap(paths[0])
    live.swap(paths[1])  # not proven yet
    live.swap(tmp_path / "nan.onnx")
    assert ask(live) == [0]
    assert live.current is good


def test_a_late_verdict_on_one_model_is_none_on_the_next(paths: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "nan.onnx"
    write_constant(bad, 3, logit=float("nan"))
    begun, go = threading.Event(), threading.Event()

    class Slow(Engine):
        def run(self, x, *, batch_size=256):
            if self.path == bad:
                begun.set()
                assert go.wait(120)
            return super().run(x, batch_size=batch_size)

    live = LiveModel(load=Slow, check=lambda _engine: None)
    live.swap(paths[0])
    live.swap(bad)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(live.predict, ONE)
        assert begun.wait(120)
        newest = live.swap(paths[2])
        go.set()
        assert request.result()[0].label == 0
    assert live.current is newest
    assert ask(live) == [2]


def test_a_slow_model_is_rolled_back(paths: list[Path]) -> None:
    class Slow(Engine):
        def predict(self, x, *, batch_size=256):
            found = super().predict(x, batch_size=batch_size)
            if self.path == paths[1]:
                threading.Event().wait(0.1)
            return found

    live = LiveModel(load=Slow, limits=HealthLimits(window=3, slowdown=5, least_s=0.02))
    live.swap(paths[0])
    ask(live, 10)
    live.swap(paths[1])
    assert ask(live, 3) == [1, 1, 1]
    assert ask(live) == [0]


def test_time_ends_a_trial(paths: list[Path]) -> None:
    now = [0.0]
    live = LiveModel(limits=HealthLimits(deadline_s=60), clock=lambda: now[0])
    live.swap(paths[0])
    live.swap(paths[1])
    now[0] = 61
    live.tick()
    assert not live.on_trial
    assert ask(live) == [1]


def test_a_probe_that_fails_keeps_the_old_one(paths: list[Path]) -> None:
    golden = golden_set(Engine(paths[0]), X)
    live = LiveModel(check=Probe(golden))
    live.swap(paths[0])
    with pytest.raises(MismatchError, match="golden"):
        live.swap(paths[1])
    assert ask(live) == [0]
    assert not live.on_trial


def test_what_is_no_model_keeps_the_old_one(paths: list[Path], tmp_path: Path) -> None:
    live = LiveModel()
    live.swap(paths[0])
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 99)
    for name in ("junk.onnx", "missing.onnx"):
        with pytest.raises(ConfigError):
            live.swap(tmp_path / name)
    assert ask(live) == [0]


def test_the_same_bytes_elsewhere_are_not_swapped_in(paths: list[Path], tmp_path: Path) -> None:
    told: list[Event] = []
    live = LiveModel(events=told.append)
    engine = live.swap(paths[0])
    (tmp_path / "copy.onnx").write_bytes(paths[0].read_bytes())
    assert live.swap(tmp_path / "copy.onnx") is engine
    assert not live.on_trial
    assert len(told) == 1


def test_a_model_of_another_shape_is_another_service(paths: list[Path], tmp_path: Path) -> None:
    write_constant(tmp_path / "other.onnx", 0, features=9)
    live = LiveModel()
    live.swap(paths[0])
    with pytest.raises(MismatchError, match="another service"):
        live.swap(tmp_path / "other.onnx")


def test_before_there_is_a_model() -> None:
    live = LiveModel()
    assert live.current is None
    live.tick()
    with pytest.raises(ConfigError, match="no model is there"):
        live.predict(X)
