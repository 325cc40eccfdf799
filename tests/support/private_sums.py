"""Settings of a private sum for tests: of whole devices, ten of which take part, with hardly any noise."""

from typing import Any

from fedmesh.privacy.summed import SumSettings

__all__ = ["sum_settings"]


def sum_settings(**changes: Any) -> SumSettings:
    """As above, but for what is given."""
    facts: dict[str, Any] = {
        "level": "client",
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip": 0.5,
        "noise_multiplier": 0.01,
        "honest": 10,
        "colluders": 0,
        "members": 10,
        "size": 50,
        "bits": 24,
        "gamma": 1e-4,
    }
    return SumSettings(**{**facts, **changes})
