"""What a node that learns has to bring: the seam between the runs of a mesh and the training itself.

The runs (`fedmesh.peer.runs`) carry messages, keep what was decided and fetch what is missing; what a device trains,
and how secure aggregation sums it up, is behind `Learning`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedmesh.mesh.rounds import Certificate, Charter, Result, Schedule, Sessions
from fedmesh.mesh.rounds.charter import Kind

if TYPE_CHECKING:
    from fedmesh.mesh.gossip import Codes, Rule
    from fedmesh.mesh.gossip import Prepared as Input
    from fedmesh.secagg import Policy

__all__ = ["Averaging", "Blobs", "Learning", "Part", "Prepared"]


class Blobs(Protocol):
    """Bytes by their SHA-256, on the disk. From any thread."""

    def put(self, data: bytes) -> bytes:
        """Makes them durable; their SHA-256, 32 bytes. Raises: ConfigError: they cannot be kept."""
        ...

    def get(self, digest: bytes) -> bytes | None:
        """The bytes of this SHA-256; None: they are not here."""
        ...

    def __contains__(self, digest: object) -> bool: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run begins with, made from a scenario by who starts it.

    Attributes:
        task: what is learned. scenario: as every member reads it.
        model, state: what round 1 begins with: the model, and the strategy's state.
        rounds, fewest, attempts, schedule, kind: as in a `Charter`.
    """

    task: str
    scenario: bytes
    model: bytes
    state: bytes
    rounds: int
    fewest: int
    attempts: int
    schedule: Schedule
    kind: Kind = "rounds"


class Part(Sessions, Protocol):
    """A device's part in one run."""

    def begin(self, before: Result) -> None:
        """The round behind `before` begins: model and state that this names are here. It may be told more than once."""
        ...


class Averaging(Protocol):
    """A device's part in a run of gossip averaging."""

    @property
    def rule(self) -> "Rule":
        """Of the sums of groups."""
        ...

    @property
    def floor(self) -> "Policy":
        """What the operator insists on in a session."""
        ...

    @property
    def publishes(self) -> bool:
        """Whether this member signs models."""
        ...

    @property
    def resting(self) -> Callable[[], str]:
        """Says why the device does not train now; empty: it does."""
        ...

    def start(self, weights: bytes) -> "Codes":
        """The model that the run begins with, from float32 [P], little-endian. Raises: ConfigError: it is none."""
        ...

    async def prepare(self, step: int, codes: "Codes") -> "Input | None":
        """Pays and trains; None: it cannot pay. Raises: RoundError: it came to nothing."""
        ...

    async def deliver(self, step: int, codes: "Codes", *, survivors: int, last: bool) -> Mapping[str, float]:
        """Has the model of a step signed here; its figures. Raises: RoundError: it was not."""
        ...

    async def aclose(self) -> None:
        """Nothing is asked of it any more."""
        ...


class Learning(Protocol):
    """Made once for a node, and used for all of its runs. A node that has none votes, and never trains."""

    def sessions(
        self,
        charter: Charter,
        *,
        scenario: bytes,
        blobs: Blobs,
        folder: Path,
        answered: Callable[[int, int, bytes], None],
        changed: Callable[[], None],
    ) -> Part:
        """This device's secure aggregation in a run. Called once in a process and run, in a thread: it may take long.

        Its methods, and those of what it opens, are called on the event loop.

        Args:
            scenario: the bytes that the charter names.
            folder: of this run, for the learning alone; it is there, and outlives the process.
            answered: takes what `Sessions.answer` said would come later, as (round, attempt, answer). From any thread.
            changed: the readiness, or what became of a sum, is otherwise than before. From any thread.

        Raises:
            ConfigError: this device declines the run; it then votes, and does not train.
        """
        ...

    def averaging(self, charter: Charter, *, scenario: bytes, changed: Callable[[], None]) -> Averaging:
        """This device's part in a run of gossip averaging. As `sessions`, but on the event loop: it is quick."""
        ...

    def certified(self, charter: Charter, certificate: Certificate, blobs: Blobs) -> None:
        """A round is over; the run, too, when it was the charter's last. On the event loop: it has to return soon.

        The last sum is told again when `sessions` has been called: nobody may have been here to be told.
        """
        ...

    def owes(self, certificate: Certificate, folder: Path) -> bool:
        """Whether `certified` has still something to do with a run's last sum, for which a run that is over is loaded.

        `folder`: of the run, as `sessions` gets it; it may not be there.
        """
        ...

    async def aclose(self) -> None:
        """The node ends."""
        ...
