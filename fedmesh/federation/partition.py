"""Who holds what: examples dealt to devices.

Every function returns one index array (int64, ascending) for each device; they are disjoint, and together hold every
example, except that `natural` may be asked for fewer devices than there are ids. The same generator state deals the
same hands.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError

__all__ = ["Indices", "dirichlet", "iid", "natural", "shards"]

Indices = NDArray[np.int64]
_TRIES = 1000


def iid(examples: int, clients: int, rng: np.random.Generator, *, min_examples: int = 1) -> list[Indices]:
    """Shuffled and dealt evenly: sizes differ by at most one.

    Raises:
        ConfigError: there are fewer than `min_examples` for each device.
    """
    _require_enough(examples, clients, min_examples)
    return _sorted(np.array_split(rng.permutation(examples), clients))


def dirichlet(
    labels: NDArray[Any], clients: int, rng: np.random.Generator, *, alpha: float, min_examples: int = 1
) -> list[Indices]:
    """Each label's examples are dealt in proportions drawn from Dirichlet(alpha) (Yurochkin et al. 2019, NIID-Bench).

    A device that already holds its even share gets nothing of the labels that follow, as in NIID-Bench, so no device
    holds almost everything. Drawn again while a device holds fewer than `min_examples`.

    Raises:
        ConfigError: `alpha` is not positive, or no draw gave every device `min_examples`.
    """
    _require_enough(len(labels), clients, min_examples)
    if not 0 < alpha < np.inf:
        raise ConfigError(f"partition.alpha is {alpha!r}, wanted a positive number")
    by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    label_sizes = np.array([len(members) for members in by_label])
    fewest = 0
    for _ in range(_TRIES):
        counts = _draw_counts(label_sizes, clients, rng, alpha)
        smallest = int(counts.sum(axis=0).min())
        if smallest >= min_examples:
            return _sorted(_deal_counts(by_label, counts, rng))
        fewest = max(fewest, smallest)
    raise ConfigError(
        f"{_TRIES} draws with partition.alpha = {alpha:g} left some device of {clients} with at most {fewest} "
        f"examples, {min_examples} are wanted: raise alpha, or lower partition.clients or partition.min_examples"
    )


def _draw_counts(label_sizes: Indices, clients: int, rng: np.random.Generator, alpha: float) -> Indices:
    """How many examples of each label each device gets, int64 [labels, clients]; rows sum to `label_sizes`."""
    even_share = label_sizes.sum() / clients
    counts = np.zeros((len(label_sizes), clients), np.int64)
    for label in rng.permutation(len(label_sizes)):  # else the last labels always go to the devices that were unlucky
        is_open = counts.sum(axis=0) < even_share
        proportions = np.nan_to_num(rng.dirichlet(np.full(clients, alpha))) * is_open
        if proportions.sum() == 0:  # a tiny alpha gave everything to a device that is full
            proportions = is_open.astype(np.float64)
        ends = np.round(np.cumsum(proportions) / proportions.sum() * label_sizes[label]).astype(np.int64)
        counts[label] = np.diff(ends, prepend=0)
    return counts


def _deal_counts(by_label: list[Indices], counts: Indices, rng: np.random.Generator) -> list[Indices]:
    pieces = [
        np.split(rng.permutation(members), np.cumsum(row)[:-1]) for members, row in zip(by_label, counts, strict=True)
    ]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def shards(
    labels: NDArray[Any], clients: int, rng: np.random.Generator, *, shards_per_client: int, min_examples: int = 1
) -> list[Indices]:
    """Sorted by label, cut into even shards, `shards_per_client` of them to each device (McMahan et al. 2017).

    Raises:
        ConfigError: there are fewer examples than shards, or than `min_examples` for each device.
    """
    _require_enough(len(labels), clients, min_examples)
    wanted = clients * shards_per_client
    if shards_per_client < 1 or wanted > len(labels):
        raise ConfigError(
            f"{clients} devices with {shards_per_client} shards each need {wanted} examples, there are {len(labels)}: "
            "lower partition.clients or partition.shards_per_client"
        )
    shuffled = rng.permutation(len(labels))  # ties between equal labels are broken by chance, not by file order
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.array_split(ordered, wanted)
    order = rng.permutation(wanted).reshape(clients, shards_per_client)
    hands = [np.concatenate([cut[shard] for shard in row]) for row in order]
    if min(map(len, hands)) < min_examples:
        fewest = min(map(len, hands))
        raise ConfigError(f"a device would hold {fewest} examples, partition.min_examples is {min_examples}")
    return _sorted(hands)


def natural(ids: NDArray[Any], clients: int, rng: np.random.Generator, *, min_examples: int = 1) -> list[Indices]:
    """One device for each id; when fewer devices than ids are asked for, a random choice of ids, in ascending order.

    Raises:
        ConfigError: fewer ids than devices have `min_examples`.
    """
    values, counts = np.unique(ids, return_counts=True)
    eligible = values[counts >= min_examples]
    if clients < 1 or clients > len(eligible):
        raise ConfigError(
            f"partition.clients is {clients}, but {len(eligible)} of {len(values)} ids have at least {min_examples} "
            "examples: lower partition.clients, partition.min_examples or data.public_fraction"
        )
    chosen = np.sort(rng.permutation(eligible)[:clients])
    return [np.flatnonzero(ids == value) for value in chosen]


def _sorted(hands: list[Indices]) -> list[Indices]:
    return [np.sort(hand).astype(np.int64, copy=False) for hand in hands]


def _require_enough(examples: int, clients: int, min_examples: int) -> None:
    if clients < 1:
        raise ConfigError(f"partition.clients is {clients}: a federation needs at least one device")
    if examples < clients * max(min_examples, 1):
        raise ConfigError(
            f"{examples} examples cannot give {clients} devices {max(min_examples, 1)} each: lower partition.clients "
            "or partition.min_examples"
        )
