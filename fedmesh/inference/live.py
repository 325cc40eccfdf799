"""The model that answers now, and its replacement while requests run.

Guarantees: a request is checked, run and named by one engine, whatever is swapped meanwhile; none waits for a swap, and
none is dropped by one. A new model is loaded and probed beside the old one, and takes over by one assignment. The old
one stays until the new one has proved itself (`Health`): until then a request on which the new one fails is answered by
the old one, and a bad verdict puts it back at once. After that it is dropped when its last request ends.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError, DataError, MismatchError, NotFiniteError
from fedmesh.events import EventSink, ModelProven, ModelSwapped, SwapUndone, ignore
from fedmesh.inference.health import Health, HealthLimits, Outcome, Verdict, median_of
from fedmesh.inference.latency import Histogram
from fedmesh.inference.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmesh.inference.engine import Engine

__all__ = ["LiveModel", "OnVerdict"]

OnVerdict = Callable[[str, Verdict], None]
_FEWEST = 8  # requests that a typical latency needs


def _unjudged(_sha256: str, _verdict: Verdict) -> None:
    """For those who do not listen."""


def _loaded(path: Path) -> "Engine":
    from fedmesh.inference.engine import Engine

    return Engine(path)


def _warmed_up(engine: "Engine") -> None:
    engine.warm_up()


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Who answers. `before` and `health` are there together: while `engine` is tried."""

    engine: "Engine"
    before: "_State | None" = None
    health: Health | None = None
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def typical_s(self) -> float | None:
        spent = list(self.recent)
        return median_of(spent) if len(spent) >= _FEWEST else None


@dataclass(frozen=True, slots=True)
class _Settled:
    """A verdict that is still to be told; it holds no engine."""

    sha256: str
    before: str
    verdict: Verdict


class LiveModel:
    """Holds the engine that answers.

    Args:
        engine: the first one; None: there is none yet.
        load: makes an engine of a file.
        check: refuses an engine by an exception before it takes over: the probe.
        limits: what a new model is held to by its first requests.
        on_verdict: told of the SHA-256 of a model on trial and what came of it.
        events: told of swaps, verdicts and rollbacks. Both are called by `swap` and `tick`, never within a request.
        clock: monotonic seconds.

    Attributes:
        latency: of every call that was answered.
    """

    def __init__(
        self,
        engine: "Engine | None" = None,
        *,
        load: "Callable[[Path], Engine]" = _loaded,
        check: "Callable[[Engine], None]" = _warmed_up,
        limits: HealthLimits | None = None,
        on_verdict: OnVerdict = _unjudged,
        events: EventSink = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = None if engine is None else _State(engine)
        self._load, self._check, self._limits = load, check, limits or HealthLimits()
        self._on_verdict, self.events, self._clock = on_verdict, events, clock
        self._swapping, self._assigning = Lock(), Lock()
        self._untold: deque[_Settled] = deque()
        self.latency = Histogram()

    @property
    def current(self) -> "Engine | None":
        """The engine that answers now."""
        state = self._state
        return None if state is None else state.engine

    @property
    def sha256(self) -> str:
        """Of the model that answers now; empty: there is none."""
        return "" if self.current is None else self.current.sha256

    @property
    def on_trial(self) -> bool:
        """Whether the current model has still to prove itself."""
        state = self._state
        return state is not None and state.health is not None

    def predict(self, x: "NDArray[Any]") -> list[Prediction]:
        """One for each example of `x` [N, ...].

        Raises:
            DataError: as `Engine.predict`: what was asked is wrong.
            ConfigError: there is no model, or it fails and there is none before it.
        """
        state = self._state  # read once: the request stays with this engine
        if state is None:
            raise ConfigError("no model is there to answer: give one, or wait until one is delivered")
        return self._answered(state, x) if state.health is None else self._tried(state, state.health, x)

    def _answered(self, state: _State, x: "NDArray[Any]") -> list[Prediction]:
        found = state.engine.predict(x)
        self.latency.observe(found[0].seconds)
        state.recent.append(found[0].seconds / len(found))
        return found

    def _tried(self, state: _State, health: Health, x: "NDArray[Any]") -> list[Prediction]:
        assert state.before is not None
        outcome: Outcome
        start = time.perf_counter()
        try:
            found = self._answered(state, x)
            outcome = "good"
        except DataError:
            raise
        except NotFiniteError:
            outcome = "not finite"
        except ConfigError:
            outcome = "failed"
        spent = (time.perf_counter() - start) / len(x)
        if outcome != "good":
            # Before the verdict: what the old one fails on as well is the request's fault. Otherwise who sends such a
            # request would decide which model runs here.
            found = self._answered(state.before, x)
        verdict = health.observe(outcome, spent, self._clock())
        if verdict is not None:
            self._settle(state, verdict)
        return found

    def swap(self, path: Path) -> "Engine":
        """Loads the model at `path` beside the current one, checks it, and lets it answer. Blocks the caller alone.

        Returns the engine that answers then: the current one where `path` holds the same bytes. The model before one on
        trial ends the trial, and is on none itself.

        Raises:
            ConfigError: it cannot be loaded, or takes or gives another shape than the current one.
            MismatchError, or what `check` raises: it is refused. The current one goes on in every case.
        """
        with self._swapping:
            engine, current = self._load(path), self.current
            if current is not None and current.sha256 == engine.sha256:
                return current
            _same_shapes(engine, current)
            self._check(engine)
            with self._assigning:
                state = self._state
                before = None if state is None else (state.before or state)
                begun = self._state = self._begun(engine, before)
        self.events(ModelSwapped(engine.sha256, "" if state is None else state.engine.sha256))
        return begun.engine

    def tick(self) -> None:
        """Gives a verdict whose time is up, and tells of verdicts: to be called now and then, as `Watch` does.

        Raises: what `events` and `on_verdict` raise; what they were told is not told again.
        """
        state = self._state
        if state is not None and state.health is not None:
            verdict = state.health.verdict(self._clock())
            if verdict is not None:
                self._settle(state, verdict)
        while self._untold:
            told = self._untold.popleft()
            if told.verdict.good:
                self.events(ModelProven(told.sha256))
            else:
                self.events(SwapUndone(told.sha256, told.before, told.verdict.reason))
            self._on_verdict(told.sha256, told.verdict)

    def _begun(self, engine: "Engine", before: _State | None) -> _State:
        if before is None:
            return _State(engine)
        if before.engine.sha256 == engine.sha256:  # given up for a proven one: against itself it has nothing to prove
            return before
        return _State(engine, before, Health(self._limits, baseline_s=before.typical_s, now=self._clock()))

    def _settle(self, state: _State, verdict: Verdict) -> None:
        """Ends the trial of `state`, unless another thread did or another model came."""
        assert state.before is not None
        with self._assigning:
            if self._state is not state:
                return
            self._state = _State(state.engine, recent=state.recent) if verdict.good else state.before
            self._untold.append(_Settled(state.engine.sha256, state.before.engine.sha256, verdict))


def _same_shapes(new: "Engine", old: "Engine | None") -> None:
    """What was asked of the old one can be asked of the new one. Raises: MismatchError."""
    if old is None:
        return
    got, wanted = (new.input_shape[1:], new.classes), (old.input_shape[1:], old.classes)
    if got != wanted:
        raise MismatchError(
            f"{new.path} takes {list(got[0])} and gives {got[1]} classes; the model that runs takes {list(wanted[0])} "
            f"and gives {wanted[1]}: that is another service, start one for it"
        )
