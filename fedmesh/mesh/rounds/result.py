"""What a round comes to, and the certificate of a quorum that makes it so.

A result is a sum over survivors, or void: nothing was learned, and model and state are those before. It is certified by
the signatures of a quorum of the charter's members. Each of them signs one result in a round, ever, and only what a
quorum has agreed upon (`voting`).
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from fedmesh.errors import ChainError, DecodeError
from fedmesh.identity.names import is_id
from fedmesh.mesh.rounds.charter import MAX_ROUNDS, Charter
from fedmesh.mesh.rounds.keys import Keys, domain
from fedmesh.mesh.rounds.quorum import MAX_MEMBERS
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_ATTEMPT",
    "MAX_CERTIFICATE_BYTES",
    "MAX_RESULT_BYTES",
    "Certificate",
    "Result",
    "founding",
    "read_certificate",
    "read_result",
    "result_statement",
    "signatures_of",
    "void",
]

MAX_RESULT_BYTES = 1 << 14
MAX_CERTIFICATE_BYTES = 1 << 15
MAX_ATTEMPT = 1 << 31
_FORMAT = "fedmesh-result/1"
_MAX_FACTS = 8
_MAX_FACT = 40


@dataclass(frozen=True, slots=True)
class Result:
    """One round's result.

    Attributes:
        charter: the run's; round: from 1; attempt: in which it was summed.
        parent: hash of the result of the round before, and of the charter in round 1.
        survivors: whose inputs are in the sum, sorted; nobody's in a void result.
        context: of the session, model and scales that they signed for (`secagg.session.input_context`); empty if void.
        model, state: SHA-256 of the model, and of the strategy's state, that the next round begins with.
        privacy: what it cost, e.g. ``{"epsilon": 1.2}``: facts by name.
    """

    charter: bytes
    round: int
    attempt: int
    parent: bytes
    survivors: tuple[str, ...]
    context: bytes
    model: bytes
    state: bytes
    privacy: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def is_void(self) -> bool:
        """Whether nothing was learned in this round."""
        return not self.survivors

    def to_bytes(self) -> bytes:
        """Deterministic CBOR: equal results give equal bytes."""
        return _encoded(self)

    @property
    def hash(self) -> bytes:
        """32 bytes that mean this result."""
        return _hashed(self)


@lru_cache(maxsize=256)
def _encoded(result: Result) -> bytes:
    return dumps([
        _FORMAT, result.charter, result.round, result.attempt, result.parent, list(result.survivors), result.context,
        result.model, result.state, dict(result.privacy),
    ])  # fmt: skip


@lru_cache(maxsize=256)  # a round's result is named in every vote and every proof
def _hashed(result: Result) -> bytes:
    return hashlib.sha256(domain("result", _encoded(result))).digest()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A result and who signed it: name -> Ed25519 signature over `result_statement`."""

    result: Result
    signatures: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return dumps([self.result.to_bytes(), dict(self.signatures)])

    def verify(self, charter: Charter, keys: Keys) -> None:
        """Whether a quorum of the charter's members has signed it. Raises: ChainError (``quorum``): it has not."""
        if self.result.charter != charter.hash:
            raise ChainError("a result of another run came", code="quorum")
        statement = result_statement(self.result)
        good = [name for name, signature in self.signatures.items() if keys.is_signed(name, signature, statement)]
        if len(good) < charter.quorum or len(good) != len(self.signatures):
            raise ChainError(
                f"{len(good)} of {len(self.signatures)} signatures under a result of round {self.result.round} are "
                f"those of members; the quorum is {charter.quorum}, and none may be wrong",
                code="quorum",
            )


def result_statement(result: Result) -> bytes:
    """What the signatures of a certificate are over."""
    return domain("certificate", result.to_bytes())


def founding(charter: Charter) -> Result:
    """What stands in the place of a result before round 1; its hash is not used, the charter's is."""
    return Result(charter.hash, 0, 0, charter.hash, (), b"", charter.model, charter.state)


def void(charter: Charter, before: Result, parent: bytes) -> Result:
    """The result of a round that is given up: the only one that there is, whoever proposes it, in whatever attempt."""
    return Result(charter.hash, before.round + 1, 0, parent, (), b"", before.model, before.state)


@lru_cache(maxsize=256)
def read_result(data: bytes) -> Result:
    """The inverse of `to_bytes`. Remembers: a result comes many times. Raises: DecodeError: these bytes are none."""
    match loads(data, max_bytes=MAX_RESULT_BYTES, max_depth=2, max_items=2 * MAX_MEMBERS + 64):
        case [
            str(form),
            bytes(charter),
            int(number),
            int(attempt),
            bytes(parent),
            list(survivors),
            bytes(context),
            bytes(model),
            bytes(state),
            dict(privacy),
        ] if form == _FORMAT and _is_right(number, attempt, [charter, parent, model, state], survivors, context):
            return Result(
                charter, number, attempt, parent, tuple(survivors), context, model, state, _facts(privacy)
            )  # fmt: skip
        case _:
            raise DecodeError(f"a result does not have the fields of {_FORMAT}")


def _is_right(number: int, attempt: int, digests: list[bytes], survivors: list[Any], context: bytes) -> bool:
    return (
        type(number) is int
        and type(attempt) is int
        and 1 <= number <= MAX_ROUNDS
        and 0 <= attempt < MAX_ATTEMPT
        and all(len(digest) == 32 for digest in digests)
        and len(survivors) <= MAX_MEMBERS
        and all(isinstance(name, str) and is_id(name) for name in survivors)
        and survivors == sorted(set(survivors))
        and len(context) == (32 if survivors else 0)
    )


def _facts(privacy: dict[Any, Any]) -> Mapping[str, float]:
    is_right = len(privacy) <= _MAX_FACTS and all(
        isinstance(name, str) and 0 < len(name) <= _MAX_FACT and type(value) in {int, float} and math.isfinite(value)
        for name, value in privacy.items()
    )
    if not is_right:
        raise DecodeError(f"a result's facts about privacy are up to {_MAX_FACTS} names with numbers")
    return MappingProxyType(privacy)


def read_certificate(data: bytes) -> Certificate:
    """The inverse of `Certificate.to_bytes`, not verified. Raises: DecodeError: these bytes are no certificate."""
    match loads(data, max_bytes=MAX_CERTIFICATE_BYTES, max_depth=2, max_items=2 * MAX_MEMBERS + 8):
        case [bytes(result), dict(signatures)]:
            return Certificate(read_result(result), signatures_of(signatures))
        case _:
            raise DecodeError("a certificate is a result and signatures")


def signatures_of(plain: object) -> dict[str, bytes]:
    """Names and signatures, by their form. Raises: DecodeError: something else."""
    if not isinstance(plain, dict) or len(plain) > MAX_MEMBERS:
        raise DecodeError(f"signatures are a map of up to {MAX_MEMBERS} names")
    for name, signature in plain.items():
        if not isinstance(name, str) or not is_id(name) or not isinstance(signature, bytes) or len(signature) != 64:
            raise DecodeError("a signature is 64 bytes, by a member's name")
    return plain
