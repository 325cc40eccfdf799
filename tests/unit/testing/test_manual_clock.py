"""The clock that a test moves."""

import pytest

from fedmesh.clock import Clock, SystemClock
from fedmesh.testing import ManualClock


def test_it_stands_still_until_it_is_moved():
    clock: Clock = ManualClock(5.0)
    assert clock.now() == clock.now() == 5.0
    clock.sleep(1.5)
    assert clock.now() == 6.5


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_it_never_goes_back(seconds):
    clock = ManualClock()
    with pytest.raises(ValueError, match="only goes forward"):
        clock.advance(seconds)
    assert clock.now() == 0.0


def test_the_systems_clock_goes_forward():
    clock = SystemClock()
    before = clock.now()
    clock.sleep(0.001)
    assert clock.now() > before
