"""What a coordinator asks of its journal, whatever it is kept in: a file of its own, or a database of many runs."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from flwr.app import ArrayRecord

from fedmesh.coordinator.chain import checkpoint_digest, node_id
from fedmesh.coordinator.records import RoundRecord
from fedmesh.errors import DecodeError
from fedmesh.flower.records import decode_arrays, encode_arrays

__all__ = ["Checkpoint", "Entry", "RoundJournal", "State"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        record: the last committed round.
        arrays: the global arrays after it.
        strategy: the strategy's state (`snapshot`).
        states: node id -> state.
    """

    record: RoundRecord
    arrays: ArrayRecord
    strategy: bytes
    states: Mapping[int, bytes]


class RoundJournal(Protocol):
    """A run's memory: after `commit` returns a round has happened, before that it has not.

    It has one owner at a time; a second is refused when it opens the run. What was committed survives the process and,
    where the disk keeps what it acknowledged, the machine.
    """

    @property
    def run_id(self) -> int:
        """The run's id, 1 to 2**62: nodes keep their Contexts under it."""
        ...

    def commit(
        self,
        record: RoundRecord,
        arrays: ArrayRecord,
        *,
        strategy: bytes = b"",
        states: Mapping[int, bytes] | None = None,
    ) -> None:
        """Makes a round durable: all of it, or on an error nothing.

        Raises:
            ConfigError: it cannot be written, the round does not follow the last, or the run is another owner's.
        """
        ...

    def next_attempt(self, number: int) -> int:
        """The number of the next attempt at round `number`, from 1: durable before it is returned, never given twice.

        Devices refuse an attempt that they know already, also one from before this process was started.

        Raises:
            ConfigError: it cannot be written.
        """
        ...

    def last(self) -> Checkpoint | None:
        """The last committed round, None before the first. Raises: ConfigError: the journal is damaged."""
        ...

    def records(self) -> list[RoundRecord]:
        """Every committed round, from round 0. Raises: ConfigError: the journal is damaged."""
        ...

    def close(self) -> None:
        """Lets other owners in; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A round as it is written down.

    Attributes:
        number, text: of the record.
        model, strategy: bytes of the checkpoint.
        changed, gone: states of nodes by their ids as text, against the round before.
        digests: node id -> SHA-256 of its state.
        checkpoint: digest of all that a run goes on from.
    """

    number: int
    text: str
    model: bytes
    strategy: bytes
    changed: dict[str, bytes]
    gone: tuple[str, ...]
    digests: dict[int, bytes]
    checkpoint: bytes

    @classmethod
    def of(
        cls,
        record: RoundRecord,
        arrays: ArrayRecord,
        strategy: bytes,
        states: Mapping[int, bytes] | None,
        before: Mapping[int, bytes],
    ) -> Self:
        """The entry of a round; `before` are the digests of the round before."""
        states = {} if states is None else states
        model = encode_arrays(arrays)
        digests = {number: hashlib.sha256(state).digest() for number, state in states.items()}
        return cls(
            record.round,
            record.to_json(),
            model,
            strategy,
            changed={str(i): states[i] for i in states if before.get(i) != digests[i]},
            gone=tuple(str(i) for i in before if i not in digests),
            digests=digests,
            checkpoint=checkpoint_digest(model, strategy, digests),
        )


@dataclass(frozen=True, slots=True)
class State:
    """What a run goes on from, checked: the last round, and the digests of the nodes' states."""

    checkpoint: Checkpoint
    digests: dict[int, bytes]

    @classmethod
    def of(cls, record: RoundRecord, digest: Any, model: Any, nodes: Iterable[Any]) -> Self:
        """From what a journal has read.

        Args:
            record: of the last round, from the verified chain.
            digest: of its checkpoint, in that chain.
            model: the row of arrays and strategy, None if there is none.
            nodes: rows of a node's id and state.

        Raises:
            DecodeError: it is not what was committed.
        """
        rows = list(nodes)
        if model is None or not all(isinstance(value, bytes) for value in (*model, *(state for _, state in rows))):
            raise DecodeError("the model or a node's state is missing")
        states = dict(sorted((node_id(name), state) for name, state in rows))
        digests = {number: hashlib.sha256(state).digest() for number, state in states.items()}
        if checkpoint_digest(model[0], model[1], digests) != digest:
            raise DecodeError("the model or a node's state is not what was committed")
        return cls(Checkpoint(record, decode_arrays(model[0]), model[1], states), digests)
