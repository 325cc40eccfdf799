"""What is kept between figures: a run of hundreds of rounds does not keep a distribution for each of them."""

import pytest
from dp_accounting import pld

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


@pytest.mark.parametrize(("multiplier", "count"), [(4.0, 1), (2.0, 7), (30.0, 200)])
def test_what_is_not_sampled_has_the_figure_of_its_distribution_without_one(multiplier: float, count: int) -> None:
    plain = PrivacyEvent("gaussian", {"noise_multiplier": multiplier}, count)
    one = pld.privacy_loss_distribution.from_gaussian_mechanism(multiplier / count**0.5)
    kept = loss._distribution.cache_info().currsize
    found = loss.epsilon_of([plain], 1e-5)
    assert found == pytest.approx(one.get_epsilon_for_delta(1e-5), rel=1e-3)
    assert found <= one.get_epsilon_for_delta(1e-5)
    assert loss._distribution.cache_info().currsize == kept


def test_beside_what_is_sampled_nothing_of_the_rest_is_kept() -> None:
    sizes = []
    for count in (1, 2, 3):
        plain = PrivacyEvent("gaussian", {"noise_multiplier": 8.0}, count)
        loss.epsilon_of([event(4), plain], 1e-5)
        sizes.append((loss._distribution.cache_info().currsize, loss._newest.cache_info().currsize))
    assert len(set(sizes)) == 1
