"""The header of a session: every public fact about it, as canonical bytes whose hash is the session's id.

The identity keys of the cohort are not in it: each party adds those that *it* has pinned (`session.binding`).
"""

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from fedmesh import wire
from fedmesh.errors import DecodeError, SecAggError
from fedmesh.secagg.ring import Ring

__all__ = ["MAX_HEADER_BYTES", "PROTOCOL", "SessionHeader"]

PROTOCOL = "fedmesh/secagg/1"

MAX_HEADER_BYTES = 1 << 18
_MAX_NAME = 200
_MAX_HASH_BYTES = 64
_INTEGERS = ("round", "attempt", "threshold", "min_cohort", "ring_bits", "length", "weight_cap")
_HASHES = ("layout_hash", "scale_hash", "model_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHeader:
    """The public facts of one session.

    Nothing is judged here: `check` refuses what is no header at all, a device's `Policy` what it takes no part in.

    Attributes:
        task: what is learned. round: from 0. attempt: of the round, from 0; another attempt has other keys.
        cohort: names of the devices, in the order that their shares are numbered by.
        threshold: shares that reconstruct a secret, and signatures that stand for a set of survivors.
        min_cohort: fewest inputs in a sum.
        ring_bits: the sum is taken modulo 2 ** ring_bits.
        length: elements of an input; the weight travels as one more.
        weight_cap: largest weight.
        layout_hash: of the model's `Layout`.
        scale_hash: of the scales that the integers stand for. model_hash: of the weights that training began with.
            Both None: bound when the input is supplied, for a session whose keys are exchanged before its model exists.
        privacy: facts about the noise in the inputs, e.g. ``{"clip": 1.0, "noise_multiplier": 0.7}``: plain data.
        deadline: of the session, in Unix seconds; for drivers, the state machines have no clock.
    """

    task: str
    round: int
    cohort: tuple[str, ...]
    threshold: int
    min_cohort: int
    ring_bits: int
    length: int
    attempt: int = 1
    weight_cap: int = 1
    layout_hash: bytes = b""
    scale_hash: bytes | None = b""
    model_hash: bytes | None = b""
    privacy: Any = None
    deadline: float | None = None
    _sid: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Takes lists of names, numpy's integers and hashes written as text for what they mean."""
        object.__setattr__(self, "cohort", tuple(self.cohort))
        for name in _INTEGERS:
            value = getattr(self, name)
            if isinstance(value, np.integer):
                object.__setattr__(self, name, int(value))
        for name in _HASHES:
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, value.encode())

    @staticmethod
    def threshold_for(members: int) -> int:
        """floor(2n/3) + 1: the least that a third of the cohort, colluding with the aggregator, cannot beat."""
        return 2 * members // 3 + 1

    @staticmethod
    def colluders_for(members: int) -> int:
        """ceil(n/3) - 1: the members in league with the aggregator that `threshold_for` is made to bear."""
        return max(0, -(-members // 3) - 1)

    @property
    def ring(self) -> Ring:
        """Where the sum is taken. Raises: SecAggError for an impossible width."""
        return Ring(self.ring_bits)

    @property
    def sid(self) -> bytes:
        """SHA-256 over `to_bytes`: the session's id, 32 bytes."""
        if not self._sid:  # every message and every key asks for it
            self._sid.append(hashlib.sha256(self.to_bytes()).digest())
        return self._sid[0]

    @property
    def fewest(self) -> int:
        """Fewest devices that a step may go on with, up to the masked inputs."""
        return max(self.threshold, self.min_cohort)

    def to_bytes(self) -> bytes:
        """Canonical bytes. Raises: SecAggError when a field holds what cannot be written down."""
        plain = {name: getattr(self, name) for name in _names(self)}
        try:
            return wire.dumps({"protocol": PROTOCOL, **plain, "cohort": list(self.cohort)})
        except (TypeError, ValueError, OverflowError, DecodeError) as error:
            raise SecAggError(f"this header holds what is no plain data: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            SecAggError: the bytes are not a header of this protocol.
        """
        try:
            plain = wire.loads(data, max_bytes=MAX_HEADER_BYTES)
        except DecodeError as error:
            raise SecAggError(f"these {len(data)} bytes are not a session's header: {error}") from error
        if not isinstance(plain, dict) or plain.pop("protocol", None) != PROTOCOL or plain.keys() != _names(cls):
            raise SecAggError(f"these {len(data)} bytes are not the header of a session of {PROTOCOL}")
        if not isinstance(plain["cohort"], list):
            raise SecAggError("a header came whose cohort is not a list of names")
        header = cls(**plain)
        header.check()
        return header

    def check(self) -> None:
        """Raises: SecAggError: a field has a type or a value that no session can have."""
        self._check_names()
        for name in _INTEGERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
                raise SecAggError(f"a header says {name} = {value!r:.80}; wanted a whole number, 0 or more")
        for name in _HASHES:
            self._check_hash(name, getattr(self, name))
        if (self.scale_hash is None) != (self.model_hash is None):
            raise SecAggError("a header leaves one of scale_hash and model_hash open: leave both, or neither")
        if isinstance(self.deadline, bool) or not isinstance(self.deadline, int | float | None):
            raise SecAggError(f"a header's deadline is {self.deadline!r:.80}; wanted Unix seconds or None")
        self._check_numbers()

    def _check_names(self) -> None:
        if not isinstance(self.task, str) or not 0 < len(self.task) <= _MAX_NAME:
            raise SecAggError(f"a header's task is a text of 1 to {_MAX_NAME} characters")
        if not all(isinstance(name, str) and 0 < len(name) <= _MAX_NAME for name in self.cohort):
            raise SecAggError(f"a header's cohort is made of names of 1 to {_MAX_NAME} characters")
        if len(set(self.cohort)) != len(self.cohort):
            raise SecAggError("a device is in the cohort twice: its share would count twice", code="policy")

    def _check_numbers(self) -> None:
        members = len(self.cohort)
        if not 1 <= self.threshold <= members or self.min_cohort > members:
            raise SecAggError(
                f"a cohort of {members} cannot have the threshold {self.threshold} and sums of {self.min_cohort}",
                code="policy",
            )
        if min(self.length, self.weight_cap) < 1:
            raise SecAggError(
                f"a header says length {self.length} and weight_cap {self.weight_cap}: both are at least 1",
                code="policy",
            )
        _ = self.ring  # refuses an impossible width

    @staticmethod
    def _check_hash(name: str, value: object) -> None:
        if value is None and name != "layout_hash":
            return
        if not isinstance(value, bytes) or len(value) > _MAX_HASH_BYTES:
            raise SecAggError(f"a header's {name} is {type(value).__name__}; wanted at most {_MAX_HASH_BYTES} bytes")


def _names(header: SessionHeader | type[SessionHeader]) -> set[str]:
    """Names of the fields that are written down."""
    return {item.name for item in fields(header) if item.init}
