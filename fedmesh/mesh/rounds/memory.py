"""What a member keeps on its disk: its ballot, durable before a signature leaves it, and the certificates of the run.

A ballot that is damaged stops the member: without it, it could sign a second result. An old copy that somebody put back
is not noticed, nor is a folder that is gone as a whole; backups of it do harm, as with the store of secure aggregation.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.mesh.rounds.result import MAX_CERTIFICATE_BYTES, Certificate, read_certificate
from fedmesh.mesh.rounds.voting import MAX_BALLOT_BYTES, Ballot, read_ballot

__all__ = ["DurableMemory", "Memory"]

_BALLOT = "ballot"
_CERTIFICATE = "round-*.certificate"


class Memory(Protocol):
    """Where a member's ballot and certificates are."""

    def ballot(self) -> Ballot:
        """The last that was kept; an empty one before the first. Raises: ConfigError: it is damaged."""
        ...

    def keep(self, ballot: Ballot) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept, and nothing may be signed."""
        ...

    def certificates(self) -> Iterable[Certificate]:
        """Those that were kept, by round. Raises: ConfigError: one is damaged."""
        ...

    def append(self, certificate: Certificate) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept."""
        ...


class DurableMemory:
    """A folder of one run: a file for the ballot and one for each round. Raises: ConfigError: there is no folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: make it, a run's results are kept there")
        self._folder = folder

    def ballot(self) -> Ballot:
        """The last that was kept; an empty one before the first. Raises: ConfigError: it is damaged."""
        path = self._folder / _BALLOT
        if not path.exists():
            if any(self._folder.glob(_CERTIFICATE)):
                raise ConfigError(
                    f"{path} is gone, with what this member signed: it takes no part in this run any more"
                )
            return Ballot()
        try:
            return read_ballot(read_bounded(path, MAX_BALLOT_BYTES, called="the ballot"))
        except DecodeError as error:
            raise ConfigError(f"{path} is damaged: this member takes no part in this run any more") from error

    def keep(self, ballot: Ballot) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept, and nothing may be signed."""
        write_atomically(self._folder / _BALLOT, ballot.to_bytes(), mode=0o600)

    def certificates(self) -> Iterable[Certificate]:
        """Those that were kept, by round. Raises: ConfigError: one is damaged."""
        for path in sorted(self._folder.glob(_CERTIFICATE)):
            try:
                yield read_certificate(read_bounded(path, MAX_CERTIFICATE_BYTES, called="the certificate"))
            except DecodeError as error:
                raise ConfigError(f"{path} is damaged: remove it and those after it, any peer has them") from error

    def append(self, certificate: Certificate) -> None:
        """Makes it durable. Raises: ConfigError: it cannot be kept."""
        path = self._folder / _CERTIFICATE.replace("*", f"{certificate.result.round:07}")
        write_atomically(path, certificate.to_bytes())
