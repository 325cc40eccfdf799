"""Who is still there: the sets that an aggregator announces, and what a device accepts of them.

Every set is a subset of the one before, holds the device itself, and is large enough. Order does not matter on the way
in; what is signed is in the cohort's order.
"""

from collections.abc import Collection, Mapping

from fedmesh.errors import SecAggError
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Roster, verify
from fedmesh.secagg.session import survivors_digest

__all__ = ["check_members", "check_quorum", "check_survivors", "in_order", "require_enough"]


def in_order(names: Collection[str], header: SessionHeader) -> tuple[str, ...]:
    """The names by their place in the cohort."""
    wanted = frozenset(names)
    return tuple(name for name in header.cohort if name in wanted)


def require_enough(count: int, header: SessionHeader, step: str) -> None:
    """Raises: SecAggError (``threshold``): too few devices for a sum."""
    if count < header.fewest:
        raise SecAggError(
            f"{count} of {len(header.cohort)} devices are left at the step {step!r}; the session needs "
            f"{header.fewest}: the round is given up, nothing was revealed",
            code="threshold",
        )


def check_members(names: Collection[str], header: SessionHeader, *, among: Collection[str]) -> tuple[str, ...]:
    """The names in cohort order.

    Raises:
        SecAggError: one of them is not `among` those that there were, or they are too few.
    """
    if not frozenset(names) <= frozenset(among):
        raise SecAggError("devices were announced that were not in the step before", code="consistency")
    require_enough(len(names), header, "share")
    return in_order(names, header)


def check_survivors(
    names: tuple[str, ...], header: SessionHeader, *, sharers: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """The survivors in cohort order, as device `name` accepts them. Raises: as `check_members`."""
    if name not in names:
        raise SecAggError("a set of survivors was announced without this device, whose input is in", code="consistency")
    return check_members(names, header, among=sharers)


def check_quorum(
    signatures: Mapping[str, bytes], survivors: tuple[str, ...], context: bytes, roster: Roster, *, threshold: int
) -> None:
    """Whether `threshold` survivors have signed this very set.

    Raises:
        SecAggError: too few signatures, one of a device that did not survive, or one that is not valid.
    """
    if not frozenset(signatures) <= frozenset(survivors):
        raise SecAggError("a device that is not among the survivors signed for them", code="consistency")
    if len(signatures) < threshold:
        raise SecAggError(
            f"{len(signatures)} devices signed for the survivors; shares are revealed for {threshold}",
            code="consistency",
        )
    statement = survivors_digest(context, survivors)
    for name, signature in signatures.items():
        if not verify(roster.key(name), signature, statement):
            raise SecAggError(f"the signature of {name!r} is not for the set that this device signed", code="signature")
