"""Deals the devices of a round into groups, each of which holds a session of secure aggregation of its own.

Whoever is in a group learns no more than the group's sum, and the server learns every group's sum: larger groups hide
more, smaller ones cost less. The dealing hides nothing, a server may deal as it likes; devices insist on the size.
"""

import secrets
from collections.abc import Collection

import numpy as np

from fedmesh.errors import ConfigError

__all__ = ["SMALLEST_GROUP", "deal", "group_sizes", "largest_group"]

SMALLEST_GROUP = 4
"""Below it no device takes part: see `fedmesh.secagg.Policy`."""


def group_sizes(devices: int, size: int) -> tuple[int, ...]:
    """How many members each group has when so many devices, 4 or more, are dealt by `size`; see `deal`."""
    count = _groups(devices, size)
    least, more = divmod(devices, count)
    return (least + 1,) * more + (least,) * (count - more)


def largest_group(devices: int, size: int) -> int:
    """Most members of a group when so many devices or fewer, but 4, are dealt: 50 by 16 are thirteens, 48 sixteens."""
    return max(-(-left // _groups(left, size)) for left in range(SMALLEST_GROUP, devices + 1))


def deal(nodes: Collection[int], size: int, *, key: Collection[int] | None = None) -> tuple[tuple[int, ...], ...]:
    """Groups at random, sizes differing by one at most, every node in exactly one.

    Args:
        nodes: at least `SMALLEST_GROUP` of them.
        size: members of a group that are not exceeded, unless a group would fall below `SMALLEST_GROUP` (5 to 7 nodes
            dealt by 4 are one group).
        key: what the dealing is a function of, with the nodes; None: the operating system's randomness.

    Raises:
        ConfigError: there are too few nodes, or `size` is too small.
    """
    if len(nodes) < SMALLEST_GROUP or size < SMALLEST_GROUP:
        raise ConfigError(f"{len(nodes)} devices in groups of {size}: both are at least {SMALLEST_GROUP}")
    rng = np.random.default_rng([*(key if key is not None else (secrets.randbits(128),))])
    order = rng.permutation(np.array(sorted(nodes), dtype=np.uint64))
    ends = np.cumsum(group_sizes(len(nodes), size))
    return tuple(tuple(sorted(int(node) for node in part)) for part in np.split(order, ends[:-1]))


def _groups(devices: int, size: int) -> int:
    return min(-(-devices // size), devices // SMALLEST_GROUP)
