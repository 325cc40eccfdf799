"""What a device keeps of its part in a round: on the disk before an answer leaves, so that a restart goes on with it.

A run has one, of its latest round. Sessions' secrets in it are sealed (`secagg.Participant.seal`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.mesh.rounds.messages import SetSignature
from fedmesh.wire import dumps, loads

__all__ = ["RoundRecord", "Shelf"]

_FORMAT = "fedmesh-round/1"
_FILE = "device"
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A device's part in one round.

    Attributes:
        round: its number. attempt: the latest whose session it joined, -1 for none.
        leaders: attempt -> who led the session, of those it joined. header: of the latest.
        state: of its Flower node. signed: the set of survivors that it has signed.
    """

    round: int
    attempt: int = -1
    leaders: Mapping[int, str] = field(default_factory=dict)
    header: bytes = b""
    state: bytes = b""
    signed: SetSignature | None = None


class Shelf:
    """Where the record is. `folder`: of the run, private to the device."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def load(self) -> RoundRecord:
        """The record that was kept last; of no round before the first. Raises: ConfigError: it is damaged."""
        if not self._path.exists():
            return RoundRecord(0)
        try:
            data = read_bounded(self._path, _MAX_BYTES, called="the device's part in a run")
            plain = loads(data, max_bytes=_MAX_BYTES)
        except DecodeError as error:
            raise ConfigError(f"{self._path} is damaged: remove it, the device then sits out this round") from error
        match plain:
            case [str(form), int(number), int(attempt), list(leaders), bytes(header), bytes(state), signed] if (
                form == _FORMAT
            ):
                signature = None if signed is None else SetSignature(*signed)
                return RoundRecord(number, attempt, dict(leaders), header, state, signature)
        raise ConfigError(f"{self._path} is no record of a device's part in a run: remove it")

    def keep(self, record: RoundRecord) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept, and nothing may leave."""
        signed = record.signed
        plain = [
            _FORMAT,
            record.round,
            record.attempt,
            [[attempt, name] for attempt, name in sorted(record.leaders.items())],
            record.header,
            record.state,
            None if signed is None else [signed.attempt, signed.digest, signed.signature],
        ]
        write_atomically(self._path, dumps(plain), mode=0o600)
