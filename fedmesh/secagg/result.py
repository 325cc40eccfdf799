"""What a session comes to: a sum, who is in it, and the signatures that stand for it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Identity, Roster, verify
from fedmesh.secagg.session import binding, digest, input_context
from fedmesh.secagg.survivors import check_quorum, require_enough

__all__ = ["SumResult", "sign_result"]


@dataclass(frozen=True, slots=True, eq=False)
class SumResult:
    """The sum over the survivors of one session; public.

    Attributes:
        total: sum of weight * vector, int64 [d].
        weight: sum of the weights.
        survivors: names whose inputs are in the sum, in cohort order; the privacy accountant needs their number.
        sid: of the session.
        signatures: name -> Ed25519 signature of a survivor over the set of survivors; at least the threshold.
        aggregator: who summed. signature: its own, over all of this.
        context: model and scales that the sum belongs to, see `session.input_context`.
    """

    total: NDArray[np.int64]
    weight: int
    survivors: tuple[str, ...]
    sid: bytes
    signatures: Mapping[str, bytes]
    aggregator: str
    signature: bytes
    context: bytes

    def verify(self, header: SessionHeader, roster: Roster) -> None:
        """Whether the quorum stands behind the survivors, and the aggregator behind the sum.

        Nobody can prove that the sum itself is right: an aggregator can announce another one, but not deny that it did.

        Raises:
            SecAggError: it is of another session, or a signature is missing or not valid.
        """
        if self.sid != header.sid or not frozenset(self.survivors) <= frozenset(header.cohort):
            raise SecAggError("the result is of another session", code="session")
        if header.model_hash is not None:
            expected = input_context(binding(header, roster), header.model_hash, header.scale_hash or b"")
            if self.context != expected:
                raise SecAggError("the result is about another model than the session", code="session")
        require_enough(len(self.survivors), header, "result")
        check_quorum(self.signatures, self.survivors, self.context, roster, threshold=header.threshold)
        statement = _statement(self.context, self.survivors, self.weight, self.total)
        if not verify(roster.key(self.aggregator), self.signature, statement):
            raise SecAggError(f"the result does not bear the signature of {self.aggregator!r}", code="signature")


def sign_result(
    total: NDArray[np.int64],
    weight: int,
    survivors: tuple[str, ...],
    signatures: Mapping[str, bytes],
    *,
    sid: bytes,
    context: bytes,
    aggregator: str,
    identity: Identity,
) -> SumResult:
    """The result, with the aggregator's signature."""
    signature = identity.sign(_statement(context, survivors, weight, total))
    return SumResult(total, weight, survivors, sid, dict(signatures), aggregator, signature, context)


def _statement(context: bytes, survivors: tuple[str, ...], weight: int, total: NDArray[np.int64]) -> bytes:
    return digest("result", context, str(weight), total.astype("<i8", copy=False).tobytes(), *survivors)
