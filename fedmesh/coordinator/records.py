"""What is known about a round once it is over."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fedmesh.errors import DecodeError

__all__ = ["RoundRecord", "SessionRecord", "StageRecord"]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One exchange of a round; totals over its devices.

    Attributes:
        name: e.g. ``"train"``, ``"unmask"``; a round that began anew has some names twice.
        devices: messages sent. replies: answers without an error.
        bytes_up, bytes_down: measured payload bytes; 0 over a grid that does not measure.
        seconds: wall time from sending to going on.
    """

    name: str
    devices: int
    replies: int
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session of secure aggregation: a group of devices and what came of it.

    Attributes:
        group: its number among the groups of the attempt, from 0.
        attempt: of the round, as in the session's header.
        devices: members of the cohort. survivors: those whose input is in the sum; 0 for a session that came to none.
        aborted: why it came to no sum; None for a good one, or for one that the round gave up on.
    """

    group: int
    attempt: int
    devices: int
    survivors: int
    aborted: str | None = None


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
        stages: the exchanges that it was made of, in order.
        sessions: those of secure aggregation, in order; none without it.
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
    stages: tuple[StageRecord, ...] = ()
    sessions: tuple[SessionRecord, ...] = ()

    def to_json(self) -> str:
        """One line of JSON; floats survive bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`, also of records without stages. Raises: DecodeError when the text is no record."""
        try:
            plain = json.loads(text)
            plain["failures"] = tuple((int(device), str(reason)) for device, reason in plain["failures"])
            plain["stages"] = tuple(StageRecord(**stage) for stage in plain.get("stages", ()))
            plain["sessions"] = tuple(SessionRecord(**session) for session in plain.get("sessions", ()))
            return cls(**plain)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DecodeError(f"this is not a round's record: {error}") from error
