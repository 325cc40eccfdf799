"""Whether a result may be the round's at all, as far as a member can see.

It cannot see whether the sum is right: an untrusted coordinator can announce another one (docs/secure-aggregation.md),
and a quorum then agrees that it did. What is checked: that it follows the last result, that enough members signed the
set of survivors, that these signatures have not made a result before, and that nothing is given up before its time.
"""

from fedmesh.mesh.rounds.chain import Chain
from fedmesh.mesh.rounds.charter import Charter
from fedmesh.mesh.rounds.keys import Keys
from fedmesh.mesh.rounds.messages import Ask
from fedmesh.mesh.rounds.quorum import quorum_for
from fedmesh.mesh.rounds.result import void
from fedmesh.mesh.rounds.voting import Phase

__all__ = ["is_possible"]


def is_possible(ask: Ask, charter: Charter, keys: Keys, chain: Chain) -> bool:
    """Whether what a coordinator asks to prepare may be the result behind those in `chain`."""
    result, before, parent = ask.result, chain.head, chain.parent
    if result.charter != charter.hash or result.round != before.round + 1 or result.parent != parent:
        return False
    if result.is_void:
        return ask.attempt >= charter.attempts and result == void(charter, before, parent)
    return (
        len(result.survivors) >= charter.fewest
        and result.context not in chain.contexts  # else an old result were the next one, with its signatures
        and result.attempt <= ask.attempt
        and result.attempt < charter.attempts
        and all(name in charter.members for name in result.survivors)
        and (_was_prepared(ask, charter, keys) or _is_consistent(ask, keys))
    )


def _was_prepared(ask: Ask, charter: Charter, keys: Keys) -> bool:
    """Whether a quorum has judged it before; who proposes it again may not have the survivors' signatures."""
    proof = ask.proof
    return (
        proof is not None
        and proof.phase is Phase.PREPARE
        and proof.result == ask.result
        and proof.is_valid(charter, keys)
    )


def _is_consistent(ask: Ask, keys: Keys) -> bool:
    """Whether enough survivors have signed this very set (R3): the least threshold that its session can have had."""
    from fedmesh.secagg.session import survivors_digest  # and numpy, which a member without a run never needs

    survivors = ask.result.survivors
    statement = survivors_digest(ask.result.context, survivors)
    return (
        len(ask.survivors) >= quorum_for(len(survivors))
        and all(name in survivors for name in ask.survivors)
        and all(keys.is_signed(name, signature, statement) for name, signature in ask.survivors.items())
    )
