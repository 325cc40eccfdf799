"""What a run promised to whom, and on what that rests, in words: the same in the report and in the terminal."""

from collections.abc import Mapping
from typing import Any

from fedmesh.dashboard.text import number

__all__ = ["foundation", "spent", "whom"]


def whom(privacy: Mapping[str, Any]) -> str:
    """Whom the promise is made to: ``example`` or ``device``."""
    return "device" if privacy.get("level") == "client" else "example"


def spent(result: Mapping[str, Any]) -> str:
    """The figure that a private run ends with."""
    final, privacy = result["final"], result.get("privacy") or {}
    told = f"epsilon {final['epsilon']:.2f} at delta {number(final['delta'])}"
    released = privacy.get("epsilon_released")
    return told if released is None else f"{told} ({released:.2f} with the devices that were really in the sums)"


def foundation(privacy: Mapping[str, Any]) -> str:
    """Who adds the noise, and what has to be true for the promise to hold."""
    match privacy.get("mode", "local"):
        case "shared" | "client":
            return (
                f"each device adds a share of the noise: the promise rests on the secure sum, and on "
                f"{privacy['honest']} honest devices in it; sums of fewer than {privacy['smallest_sum']} are refused"
            )
        case "central":
            return "the server adds the noise after it has seen the exact sum, and is trusted: for comparison only"
        case _:
            return "each device adds all of the noise itself: the promise holds against everyone"
