"""What is not sure is handed off; what cannot be is answered here, said so, counted, and not waited for again."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DataError, PeerError
from fedmesh.inference import Confident, Prediction

X = np.array([[0.2], [0.6], [0.9], [0.4]], np.float32)


class Small:
    """As sure as the example's value."""

    def predict(self, x: np.ndarray) -> list[Prediction]:
        return [Prediction(0, float(np.round(one[0], 3)), "small", 0.1) for one in x]


class Big:
    def __init__(self) -> None:
        self.asked: list[list[float]] = []
        self.broken = False

    def predict(self, x: np.ndarray) -> list[Prediction]:
        self.asked.append(np.round(x[:, 0], 3).tolist())
        if self.broken:
            raise PeerError("away")
        return [Prediction(7, 1.0, "big", 0.2) for _ in x]


def test_only_what_is_not_sure_is_handed_off_and_in_place() -> None:
    big = Big()
    found = Confident(Small(), big, threshold=0.6).predict(X)
    assert [one.label for one in found] == [7, 0, 0, 7]
    assert [one.model for one in found] == ["big", "small", "small", "big"]
    assert [one.handoff for one in found] == ["answered", "none", "none", "answered"]
    np.testing.assert_allclose(big.asked, [[0.2, 0.4]], rtol=1e-6)


def test_as_sure_as_the_threshold_is_sure_enough() -> None:
    found = Confident(Small(), Big(), threshold=0.5).predict(np.array([[0.5], [0.25]], np.float32))
    assert [one.handoff for one in found] == ["none", "answered"]


def test_threshold_zero_hands_nothing_off() -> None:
    big = Big()
    Confident(Small(), big, threshold=0).predict(X)
    assert big.asked == []


def test_a_bigger_model_that_is_away() -> None:
    big, now = Big(), [100.0]
    confident = Confident(Small(), big, threshold=0.5, rest_s=5, clock=lambda: now[0])
    big.broken = True
    found = confident.predict(X)
    assert [one.handoff for one in found] == ["failed", "none", "none", "failed"]
    assert [one.model for one in found] == ["small"] * 4
    big.broken = False
    now[0] += 4.9
    assert [one.handoff for one in confident.predict(X)] == ["failed", "none", "none", "failed"]
    assert len(big.asked) == 1  # nobody waited for it again
    now[0] += 0.2
    assert [one.handoff for one in confident.predict(X)] == ["answered", "none", "none", "answered"]
    assert confident.counts == {"failed": 2, "spared": 2, "answered": 2}


def test_whatever_is_wrong_with_the_hand_off_there_is_an_answer() -> None:
    class Misconfigured:
        def predict(self, x: np.ndarray) -> list[Prediction]:
            raise ConfigError("the folder of the identity is damaged")

    found = Confident(Small(), Misconfigured(), threshold=0.5).predict(X)
    assert [one.handoff for one in found] == ["failed", "none", "none", "failed"]


def test_errors_of_the_small_model_are_its_own() -> None:
    class Broken:
        def predict(self, x: np.ndarray) -> list[Prediction]:
            raise DataError("no")

    with pytest.raises(DataError):
        Confident(Broken(), Big(), threshold=0.5).predict(X)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_confidence(threshold: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Confident(Small(), Big(), threshold=threshold)
