"""A round as a sequence of stages: what is said to devices, and what follows from what they answer.

Averaging needs one stage, with federated evaluation two; secure aggregation five, each of which depends on who was left
after the one before. A `Script` holds a round's logic without any I/O, clock or waiting: those are the coordinator's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import ArrayRecord, Message, MetricRecord

from fedmesh.coordinator.records import SessionRecord
from fedmesh.errors import RoundError

__all__ = ["Outcome", "Script", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One exchange with some devices.

    Attributes:
        name: e.g. ``"train"``, ``"advertise"``; shown in events.
        messages: one for each device asked. Without any the stage is over at once.
        quorum: fewest replies without an error that the round can go on with.
        enough: go on as soon as so many replies without an error are in; None waits for all.
        satisfied: asked after each reply; True goes on without the others. For what no number can say.
        deadline_s: waits no longer than this many seconds; None uses the coordinator's.
        arrived: is given each reply without an error as it comes, in whatever order that is; `Script.proceed` then does
            not get them, so that nobody has to hold them all.
        about: node ids that the round is about; other nodes may get a message too, but neither count as asked nor as
            fallen out. None: everybody who gets a message.
    """

    name: str
    messages: tuple[Message, ...]
    quorum: int = 0
    enough: int | None = None
    satisfied: Callable[[], bool] | None = None
    deadline_s: float | None = None
    arrived: Callable[[Message], None] | None = None
    about: frozenset[int] | None = None

    def counts(self, node_id: int) -> bool:
        """Whether the round is about this node."""
        return self.about is None or node_id in self.about


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round came to.

    Attributes:
        arrays: the new global arrays; None when the round leaves the old ones.
        survivors: devices whose answer is in them.
        train_metrics, evaluate_metrics: what the strategy aggregated, if anything.
        refused: node id -> why its reply was not used, although it was no error.
        sessions: the sessions of secure aggregation that the round held.
        failed: why the round leaves the old arrays, for a script that has more to tell than an exception can carry.
    """

    arrays: ArrayRecord | None
    survivors: int = 0
    train_metrics: MetricRecord | None = None
    evaluate_metrics: MetricRecord | None = None
    refused: dict[int, str] = field(default_factory=dict)
    sessions: tuple[SessionRecord, ...] = ()
    failed: RoundError | None = None


class Script(Protocol):
    """A round's logic. It raises RoundError when the round cannot go on."""

    def begin(self) -> Stage | Outcome:
        """The first stage."""
        ...

    def proceed(self, replies: Sequence[Message]) -> Stage | Outcome:
        """What follows the stage before, given its replies by ascending node id, error replies among them.

        Of a stage with `Stage.arrived` only the error replies.
        """
        ...
