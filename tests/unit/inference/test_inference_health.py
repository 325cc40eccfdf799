"""When a new model is bad at once, at the end of its window, and when it is good."""

import pytest

from fedmesh.errors import ConfigError
from fedmesh.inference import Health, HealthLimits, Verdict

LIMITS = HealthLimits(window=10, failures=0.2, slowdown=4, least_s=0.01, deadline_s=60)
GOOD = Verdict(good=True)


def health(baseline_s: float | None = None) -> Health:
    return Health(LIMITS, baseline_s=baseline_s, now=0)


def test_good_at_the_end_of_the_window() -> None:
    judge = health(baseline_s=0.005)
    assert [judge.observe("good", 0.006, 1) for _ in range(9)] == [None] * 9
    assert judge.observe("good", 0.006, 1) == GOOD


def test_one_that_is_not_finite_is_enough() -> None:
    judge = health()
    judge.observe("good", 0.001, 1)
    verdict = judge.observe("not finite", 0.001, 1)
    assert verdict is not None
    assert not verdict.good
    assert "finite" in verdict.reason


def test_as_many_failures_as_allowed_and_one_more() -> None:
    judge = health()
    assert [judge.observe("failed", 0.001, 1) for _ in range(2)] == [None, None]
    verdict = judge.observe("failed", 0.001, 1)
    assert verdict == Verdict(good=False, reason="3 of 3 requests failed")
    kept = health()
    for _ in range(2):
        kept.observe("failed", 0.001, 1)
    assert [kept.observe("good", 0.001, 1) for _ in range(8)][-1] == GOOD


@pytest.mark.parametrize(
    ("spent", "baseline_s", "good"),
    [(0.041, 0.01, False), (0.039, 0.01, True), (0.0099, 0.0001, True), (0.0101, 0.0001, False), (9, None, True)],
)
def test_slower_than_the_one_before(spent: float, baseline_s: float | None, good: bool) -> None:
    judge = health(baseline_s)
    verdict = [judge.observe("good", spent, 1) for _ in range(10)][-1]
    assert verdict is not None
    assert verdict.good is good


def test_one_slow_request_is_not_a_slow_model() -> None:
    judge = health(baseline_s=0.01)
    judge.observe("good", 50, 1)
    assert [judge.observe("good", 0.01, 1) for _ in range(9)][-1] == GOOD


def test_without_requests_the_time_decides() -> None:
    judge = health(baseline_s=0.01)
    assert judge.verdict(59.9) is None
    assert judge.verdict(60) == GOOD
    slow = health(baseline_s=0.01)
    slow.observe("good", 1, 1)
    verdict = slow.verdict(60)
    assert verdict is not None
    assert not verdict.good


def test_a_verdict_stands() -> None:
    judge = health()
    bad = judge.observe("not finite", 0, 1)
    assert [judge.observe("good", 0.001, 1) for _ in range(20)] == [bad] * 20
    assert judge.verdict(1e9) == bad


@pytest.mark.parametrize(
    "bad", [{"window": 0}, {"failures": 1}, {"failures": -0.1}, {"slowdown": 0}, {"deadline_s": 0}]
)
def test_limits_that_cannot_be_kept(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="cannot be kept"):
        HealthLimits(**bad)  # type: ignore[arg-type]
