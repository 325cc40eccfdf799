"""Who averages with whom: for every step all members deal the same groups, without a word.

The beacon of a step is a hash over the run and the step's number, and the groups are dealt over *all* members of the
run, whoever is here: two members that differ about who is alive still agree on the groups. Who is missing is missing in
its group. The mixing matrix of a step is block diagonal, 1/m between the m members of a group that were in its sum and
1 for everybody else: symmetric and doubly stochastic, the weights of Metropolis and Hastings on groups that are
complete graphs. Random groups are those of Moshpit SGD (Ryabinin et al. 2021).

Guaranteed: the same groups everywhere; every member in exactly one. Not guaranteed: that nobody knows them beforehand,
nor that the members of a league do not meet in one (`takeover` says how likely that is).
"""

import hashlib
import math
from collections.abc import Collection

from fedmesh.errors import ConfigError

__all__ = ["MIN_GROUP", "contraction", "deal", "group_of", "takeover"]

MIN_GROUP = 4
"""A sum of fewer is never made: `fedmesh.secagg` has the reasons."""
_PURPOSE = b"fedmesh gossip beacon\x00"


def deal(run: bytes, step: int, members: Collection[str], smallest: int) -> tuple[tuple[str, ...], ...]:
    """The groups of a step, of `smallest` to 2 * `smallest` - 1 members, as even as can be.

    The members of a group are in the order in which they lead it: the first that is alive sums for all.

    Args:
        run: 16 random bytes that whoever started the run has drawn. step: 0 or more.
        members: names of all, here or not. smallest: at least 4.

    Raises:
        ConfigError: groups so small are not allowed, or there are too few members for one.
    """
    if not MIN_GROUP <= smallest <= len(members):
        raise ConfigError(
            f"{len(members)} members cannot be dealt into groups of at least {smallest}: wanted a size from "
            f"{MIN_GROUP} to the number of members"
        )
    beacon = hashlib.sha256(_PURPOSE + len(run).to_bytes(8, "big") + run + step.to_bytes(8, "big")).digest()
    order = sorted(members, key=lambda name: (hashlib.sha256(beacon + name.encode()).digest(), name))
    parts = len(order) // smallest
    return tuple(tuple(order[place::parts]) for place in range(parts))


def group_of(groups: tuple[tuple[str, ...], ...], name: str) -> tuple[str, ...]:
    """The group that `name` is in. Raises: ConfigError: it is no member."""
    for group in groups:
        if name in group:
            return group
    raise ConfigError(f"{name!r} is none of the {sum(map(len, groups))} members that were dealt into groups")


def contraction(members: int, parts: int) -> float:
    """By how much a step without training shrinks the spread, in the mean: (parts - 1) / (members - 1).

    The spread is the mean squared distance of the members' models from their mean. Exact for groups of any sizes that
    are dealt at random; a member that is left alone is a part of its own. (Moshpit SGD, theorem 3.2, has a bound for
    equal sizes.) Random pairs: about 1/2.
    """
    return 0.0 if members < 2 else (parts - 1) / (members - 1)


def takeover(members: int, colluders: int, size: int, tolerated: int) -> float:
    """The probability that one given group of `size` has more than `tolerated` of the run's `colluders` in it.

    Hypergeometric: the groups are dealt at random. Times the number of groups and of steps it bounds that of a run.
    """
    ways = sum(
        math.comb(colluders, bad) * math.comb(members - colluders, size - bad)
        for bad in range(tolerated + 1, min(colluders, size) + 1)
    )
    return ways / math.comb(members, size)
