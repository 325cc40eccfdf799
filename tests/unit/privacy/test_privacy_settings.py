import math

import pytest

from fedmesh.errors import ConfigError
from fedmesh.privacy import DpSettings

GOOD = {
    "epsilon": 8.0,
    "delta": 1e-5,
    "clip": 1.0,
    "noise_multiplier": 1.5,
    "sample_rate": 0.25,
    "steps": 4,
    "expected_batch": 32.0,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", math.inf),
        ("delta", 0.0),
        ("delta", 1.0),
        ("clip", -1.0),
        ("clip", math.nan),
        ("noise_multiplier", 0.0),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("sample_rate", math.nan),
        ("steps", 0),
        ("expected_batch", 0.0),
    ],
)
def test_settings_that_promise_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        DpSettings(**{**GOOD, name: value})


def test_a_round_costs_its_steps() -> None:
    event = DpSettings(**GOOD).event("digits/round-3")
    assert event.mechanism == "sampled_gaussian"
    assert event.parameters == {"sample_rate": 0.25, "noise_multiplier": 1.5}
    assert event.count == 4
    assert event.label == "digits/round-3"
