"""What a device insists on, and what it puts into the sum."""

import dataclasses

import numpy as np
import pytest
from private_sums import sum_settings

from fedmesh.errors import SecAggError
from fedmesh.flower.terms import Terms
from fedmesh.secagg import Identity, MetricCodec, Policy, Roster, SessionHeader
from fedmesh.types import Layout

LAYOUT = Layout(("w", "b"), ((2, 3), (2,)))
TERMS = Terms("digits", LAYOUT, bits=8, weight_cap=20, reported=("examples", "loss"))


def header(terms: Terms, **changes: object) -> SessionHeader:
    values = {
        "task": terms.task,
        "round": 1,
        "cohort": ("a", "b", "c", "d"),
        "threshold": 3,
        "min_cohort": 3,
        "ring_bits": 30,
        "length": terms.length,
        "weight_cap": terms.weight_cap,
        "layout_hash": LAYOUT.digest,
        "privacy": terms.privacy,
    }
    return SessionHeader(**{**values, **changes})


def test_an_input_is_the_codes_and_the_digits_of_the_metrics_behind_them() -> None:
    codes = np.arange(-4, 4, dtype=np.int8)
    values = TERMS.input(codes, {"examples": 11, "loss": 2.5, "accuracy": 1.0})
    assert values.dtype == np.int64
    assert len(values) == TERMS.length
    assert values[:8].tolist() == codes.tolist()
    assert MetricCodec(TERMS.reported, 8).decode(3 * values[8:], 3) == {"examples": 11.0, "loss": 2.5}


def test_without_metrics_an_input_is_the_codes() -> None:
    terms = dataclasses.replace(TERMS, reported=())
    assert terms.length == 8
    assert terms.input(np.ones(8, np.int16), {"loss": float("nan")}).tolist() == [1] * 8


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.5, 1.0e9])
def test_a_metric_that_does_not_fit_is_not_told(loss: float) -> None:
    with pytest.raises(SecAggError) as caught:
        TERMS.input(np.zeros(8, np.int8), {"examples": 4321, "loss": loss})
    assert caught.value.code == "input"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not any(text in str(caught.value) for text in ("4321", str(loss)))


def test_weights_are_capped_and_never_nothing() -> None:
    assert [TERMS.weight(count) for count in (0, 1, 19, 20, 500)] == [1, 1, 19, 20, 20]


def test_the_policy_is_the_floor_with_what_the_task_fixes() -> None:
    policy = dataclasses.replace(TERMS, floor=Policy(smallest_cohort=9), privacy={"clip": 1.0}).policy
    assert (policy.smallest_cohort, policy.value_bits, policy.layout_hash) == (9, 8, LAYOUT.digest)
    assert policy.privacy == {"clip": 1.0}


def test_its_own_session_is_accepted() -> None:
    TERMS.check(header(TERMS))
    private = dataclasses.replace(TERMS, privacy={"clip": 1.0})
    private.check(header(private))


@pytest.mark.parametrize(
    "change", [{"task": "other"}, {"length": 8}, {"length": 99}, {"weight_cap": 1}, {"privacy": {"clip": 1.0}}]
)
def test_another_session_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SecAggError) as caught:
        TERMS.check(header(TERMS, **change))
    assert caught.value.code == "policy"


SUMMED = sum_settings(clip=1.0, noise_multiplier=1.0, honest=3, colluders=1, members=6, size=8, bits=18, gamma=0.01)
PRIVATE = dataclasses.replace(TERMS, reported=(), weight_cap=1, summed=SUMMED, privacy=dataclasses.asdict(SUMMED))


def private_header(**changes: object) -> SessionHeader:
    facts = {"ring_bits": 18, "min_cohort": 4, "cohort": ("a", "b", "c", "d", "e"), "threshold": 4}
    return header(PRIVATE, **{**facts, **changes})


def roster_of_five() -> Roster:
    return Roster({name: Identity.generate().public for name in "abcde"})


def test_a_private_sum_has_its_own_length_and_ring() -> None:
    assert PRIVATE.length == SUMMED.length == 8
    PRIVATE.check(private_header())
    PRIVATE.policy.check(private_header(), roster_of_five(), "a")
    with pytest.raises(SecAggError, match="ring_bits = 17"):
        PRIVATE.check(private_header(ring_bits=17))


def test_a_sum_with_less_noise_than_was_paid_for_is_refused() -> None:
    few = dataclasses.replace(SUMMED, honest=4, members=5)
    terms = dataclasses.replace(PRIVATE, summed=few, privacy=dataclasses.asdict(few))
    session = private_header(privacy=terms.privacy)
    with pytest.raises(SecAggError, match="sums of 4 inputs were announced; this device wants at least 5"):
        terms.policy.check(session, roster_of_five(), "a")
    for name, value in (("noise_multiplier", 0.5), ("clip", 2.0), ("honest", 2), ("gamma", 0.02)):
        session = private_header(privacy={**dataclasses.asdict(SUMMED), name: value})
        with pytest.raises(SecAggError, match="other privacy parameters"):
            PRIVATE.policy.check(session, roster_of_five(), "a")


def test_codes_without_noise_never_go_into_a_private_sum() -> None:
    codes = np.arange(-4, 4, dtype=np.int8)
    assert len(codes) == PRIVATE.length  # nothing else would notice
    with pytest.raises(SecAggError, match="carry noise"):
        PRIVATE.input(codes, {})
