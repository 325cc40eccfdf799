"""What is known about a round once it is over."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fedmesh.errors import DecodeError

__all__ = ["RoundRecord"]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A committed round; round 0 is the start.

    Attributes:
        round: its number.
        clients: devices asked. survivors: those whose answer was used.
        metrics: what the strategy aggregated (``train.*`` and ``evaluate.*``).
        evaluation: what the coordinator's `evaluate` returned for the new arrays.
        bytes_up: measured payload bytes from a device, mean over those that did not fall out.
        bytes_down: measured payload bytes to a device, mean over those asked.
        seconds: wall time.
        failures: (device, reason) of every device that fell out.
        failed: why the round left the model as it was; None for a good round.
    """

    round: int
    clients: int = 0
    survivors: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, float | None] = field(default_factory=dict)
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    seconds: float = 0.0
    failures: tuple[tuple[int, str], ...] = ()
    failed: str | None = None

    def to_json(self) -> str:
        """One line of JSON; floats survive bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises: DecodeError when the text is not a record."""
        try:
            plain = json.loads(text)
            plain["failures"] = tuple((int(device), str(reason)) for device, reason in plain["failures"])
            return cls(**plain)
        except (ValueError, TypeError, KeyError) as error:
            raise DecodeError(f"this is not a round's record: {error}") from error
