"""Who coordinates: an order of the charter's members that everybody computes alike, new in each round.

The beacon of a round is the hash of the result before it. Whoever coordinated that one has had a choice of what it was
(it could leave somebody out), so it is no lottery, and need not be: being first gives no right but to coordinate. A
coordinator is an untrusted server; what it says counts for what a quorum has signed under it.

Who is in the last sum goes before who is not: that they train is certified. A member that only votes has nothing to sum
with, and would cost an attempt whenever it is its turn; so it coordinates when nobody else is left.
"""

import hashlib
from collections.abc import Collection

from fedmesh.mesh.rounds.keys import domain

__all__ = ["coordinator", "deputies", "ranking"]


def ranking(parent: bytes, number: int, members: Collection[str], first: Collection[str] = ()) -> tuple[str, ...]:
    """The members in the order of SHA-256 over the result before round `number`, that number and their names.

    `first`: who goes before all others, in that order: whose inputs are in the last sum.
    """
    beacon = domain("beacon", parent + number.to_bytes(8, "big"))

    def place(name: str) -> tuple[bool, bytes, str]:
        return name not in first, hashlib.sha256(beacon + name.encode()).digest(), name

    return tuple(sorted(members, key=place))


def coordinator(order: tuple[str, ...], attempt: int, alive: Collection[str]) -> str:
    """Who coordinates `attempt`: each begins one place later, and the first that is alive from there on has it.

    So who succeeds a dead coordinator is the next that is alive, and no second ranking has to be drawn: that one has
    what it needs to go on (`deputies`). Members that differ about who is alive disagree here, which costs an attempt.
    """
    turned = _from(order, attempt)
    return next((name for name in turned if name in alive), turned[0])


def deputies(order: tuple[str, ...], name: str, alive: Collection[str], count: int) -> tuple[str, ...]:
    """The next `count` that are alive behind `name`."""
    turned = _from(order, order.index(name) + 1)
    return tuple(other for other in turned if other != name and other in alive)[:count]


def _from(order: tuple[str, ...], place: int) -> tuple[str, ...]:
    place %= len(order)
    return order[place:] + order[:place]
