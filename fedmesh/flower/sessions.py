"""The sessions of secure aggregation that a device is in the middle of, as they lie in its Flower Context.

At most two: this round's, and the next one's whose keys are already being exchanged. What is kept of one is public,
its header, or sealed under the device's identity. A session that is over, or that another takes the place of, is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Context

from fedmesh import wire
from fedmesh.errors import DecodeError

__all__ = ["STATE", "Kept", "keep", "kept_in"]

STATE = "fedmesh.secagg"
"""Name of the record in the Context's state."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A session between two messages: its header, as it came, and the sealed state of the participant."""

    header: bytes
    sealed: bytes


def kept_in(context: Context) -> dict[int, Kept]:
    """Round -> its session.

    Raises:
        DecodeError: the record is not one that `keep` wrote.
    """
    record = context.state.config_records.get(STATE)
    if record is None:
        return {}
    data = record.get("sessions")
    plain = wire.loads(data, max_bytes=len(data), max_depth=2) if isinstance(data, bytes) else None
    return dict(_session(entry) for entry in (plain if isinstance(plain, list) else [None]))


def keep(context: Context, sessions: Mapping[int, Kept]) -> None:
    """Puts the sessions in place of those that were kept; without any, nothing stays."""
    if not sessions:
        context.state.pop(STATE, None)
        return
    plain = [[number, kept.header, kept.sealed] for number, kept in sessions.items()]
    context.state[STATE] = ConfigRecord({"sessions": wire.dumps(plain)})


def _session(entry: object) -> tuple[int, Kept]:
    match entry:
        case [int(number), bytes(header), bytes(sealed)]:
            return number, Kept(header, sealed)
    raise DecodeError(f"the Context's {STATE!r} does not hold a round, a header and a state for each session")
