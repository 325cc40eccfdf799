"""A member of a run that does not train, for now or for good: it votes for what it holds, and is no device.

For now: until the scenario is here and what the device trains with is loaded. For good: a node that learns nothing, or
a device that declines the run.
"""

from collections.abc import Mapping

from fedmesh.errors import RoundError
from fedmesh.mesh.rounds import Result, Summing
from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.peer.learning import Blobs, Part

__all__ = ["StandingBy"]


class StandingBy:
    """`Sessions` of who waits for `behind`.

    Attributes:
        behind: who answers in its place, once it is there.
        is_final: whether nobody will.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.behind: Part | None = None
        self.is_final = False

    def readiness(self, number: int, attempt: int) -> Readiness:
        """Whether this device would train: not now, or never."""
        if self.behind is not None:
            return self.behind.readiness(number, attempt)
        return Readiness.OUT if self.is_final else Readiness.LATER

    def open(self, number: int, attempt: int, cohort: tuple[str, ...], before: Result) -> Summing | None:
        """Sums for others. None: not yet. Raises: RoundError: not here."""
        if self.behind is None and not self.is_final:
            return None
        return self._there().open(number, attempt, cohort, before)

    def resume(self, handover: bytes, signatures: Mapping[str, bytes]) -> Summing | None:
        """Goes on with another's session; None: not here."""
        return None if self.behind is None else self.behind.resume(handover, signatures)

    def answer(self, number: int, attempt: int, sender: str, data: bytes) -> bytes | None:
        """The device's answer. Raises: RoundError: there is none."""
        return self._there().answer(number, attempt, sender, data)

    def signed(self, number: int) -> SetSignature | None:
        """The set that the device has signed."""
        return None if self.behind is None else self.behind.signed(number)

    def holds(self, digest: bytes) -> bool:
        """Whether this member has it."""
        return digest in self._blobs if self.behind is None else self.behind.holds(digest)

    def close(self, number: int) -> None:
        """The round is over."""
        if self.behind is not None:
            self.behind.close(number)

    def _there(self) -> Part:
        if self.behind is None:
            raise RoundError("this member does not train, or not yet")
        return self.behind
