"""What is kept between figures: a run of hundreds of rounds does not keep a distribution for each of them."""

import pytest

from fedmesh.privacy import loss
from fedmesh.types import PrivacyEvent


def event(count: int, multiplier: float = 2.0) -> PrivacyEvent:
    return PrivacyEvent("sampled_gaussian", {"sample_rate": 0.25, "noise_multiplier": multiplier}, count)


def test_of_a_pair_the_distribution_of_the_newest_count_alone_is_kept() -> None:
    for rounds in (4, 8, 12, 16):
        loss.epsilon_of([event(rounds)], 1e-5)
    assert list(loss._newest(0.25, 2.0, 1e-4)) == [16]


def test_a_figure_is_the_same_whatever_was_asked_for_before() -> None:
    first = loss.epsilon_of([event(4, 3.0), event(2, 5.0)], 1e-5)
    loss.epsilon_of([event(9, 3.0), event(1, 5.0)], 1e-5)
    loss._epsilon.cache_clear()
    assert loss.epsilon_of([event(4, 3.0), event(2, 5.0)], 1e-5) == pytest.approx(first, abs=0)
