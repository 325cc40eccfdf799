"""A data set cut into what a federation needs: public, on each device, and held out.

The parts are disjoint; the same seed cuts the same way. Blocks of overlapping examples stay whole, so no held-out
window shares samples with a training window of the same device.
"""

from dataclasses import dataclass

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.federation import partition as deal
from fedmesh.federation.datasets.catalog import Dataset
from fedmesh.federation.datasets.people import groups_of, without_ids
from fedmesh.federation.scenario import PartitionSection, Scenario
from fedmesh.types import Examples

__all__ = ["FederatedData", "choose_public", "hold_out", "split", "split_as", "streams_of"]


@dataclass(frozen=True, slots=True)
class FederatedData:
    """Who has which examples.

    Attributes:
        public: what the server may see: pre-training and calibration.
        devices: each device's training examples; local: each device's held-out examples, possibly none.
        held_out: the global held-out examples: the official test part, or else all devices' held-out ones.
        classes: a name for each label.
        ids: the natural id of each device, or its number.
    """

    public: Examples
    devices: tuple[Examples, ...]
    local: tuple[Examples, ...]
    held_out: Examples
    classes: tuple[str, ...]
    ids: tuple[int, ...]


def split(
    dataset: Dataset,
    *,
    public_fraction: float,
    local_held_out_fraction: float,
    partition: PartitionSection,
    seed: int,
    public_ids: int | None = None,
    held_out_ids: int | None = None,
) -> FederatedData:
    """Cuts `dataset`; fractions and numbers of ids as in the scenario's ``[data]``.

    The public part is a stratified sample of the examples; with ``partition.kind = "natural"`` it is all examples of a
    share of the ids (or of `public_ids` of them), since people who volunteer their data volunteer all of it. With
    `held_out_ids` the official test part is forgotten: that many ids out of both parts are the held-out ones.

    Raises:
        ConfigError: the partition is impossible for this data set, or a part would be empty.
    """
    public_rng, deal_rng, local_rng, people_rng = streams_of(seed)
    if held_out_ids is not None:
        dataset = without_ids(dataset, held_out_ids, people_rng)
    public, private = choose_public(dataset, public_fraction, public_ids, partition, public_rng)
    hands = [private[hand] for hand in _deal(dataset, private, partition, deal_rng)]
    cuts = [hold_out(dataset, hand, local_held_out_fraction, local_rng) for hand in hands]
    everything = Examples(dataset.x, dataset.y)
    devices = tuple(everything[np.setdiff1d(hand, cut)] for hand, cut in zip(hands, cuts, strict=True))
    local = tuple(everything[cut] for cut in cuts)
    held_out = dataset.test if dataset.test is not None else everything[np.sort(np.concatenate(cuts))]
    if len(held_out) == 0:
        raise ConfigError(
            f"{dataset.name} has no official test part and no device holds out anything: raise "
            f"data.local_held_out_fraction, which is {local_held_out_fraction:g}"
        )
    ids = tuple(range(len(hands)))
    if partition.kind == "natural" and dataset.groups is not None:
        ids = tuple(int(dataset.groups[hand[0]]) for hand in hands)
    return FederatedData(everything[public], devices, local, held_out, dataset.classes, ids)


def split_as(dataset: Dataset, scenario: Scenario) -> FederatedData:
    """`dataset` as `scenario` cuts it; raises as `split`."""
    return split(
        dataset,
        public_fraction=scenario.data.public_fraction,
        local_held_out_fraction=scenario.data.local_held_out_fraction,
        partition=scenario.partition,
        seed=scenario.seed,
        public_ids=scenario.data.public_ids,
        held_out_ids=scenario.data.held_out_ids,
    )


def streams_of(seed: int) -> tuple[np.random.Generator, ...]:
    """Randomness of the public part, the dealing, the devices' held-out parts and the held-out people.

    Streams of their own: a fraction that changes moves one part only.
    """
    return tuple(map(np.random.default_rng, np.random.SeedSequence([seed, 0x64617461]).spawn(4)))


def choose_public(
    dataset: Dataset, fraction: float, number: int | None, partition: PartitionSection, rng: np.random.Generator
) -> tuple[deal.Indices, deal.Indices]:
    """Indices of the public and of the private part, ascending."""
    if not 0 < fraction < 1:
        raise ConfigError(f"data.public_fraction is {fraction!r}, wanted a number between 0 and 1")
    if partition.kind == "natural":
        groups = groups_of(dataset)
        ids = rng.permutation(np.unique(groups))
        chosen = ids[: max(1, round(fraction * len(ids))) if number is None else number]
        is_public = np.isin(groups, chosen)
    elif number is not None:
        raise ConfigError(
            f"data.public_ids counts people, and partition.kind is {partition.kind!r}: use partition.kind = 'natural', "
            "or data.public_fraction"
        )
    else:
        is_public = np.zeros(len(dataset.y), bool)
        for label in np.unique(dataset.y):
            members = rng.permutation(np.flatnonzero(dataset.y == label))
            is_public[members[: max(1, round(fraction * len(members)))]] = True
    if is_public.all():
        raise ConfigError(
            f"data.public_{'fraction' if number is None else 'ids'} = {fraction if number is None else number:g} makes "
            f"all of {dataset.name} public: lower it, no device has anything"
        )
    return np.flatnonzero(is_public), np.flatnonzero(~is_public)


def _deal(
    dataset: Dataset, private: deal.Indices, partition: PartitionSection, rng: np.random.Generator
) -> list[deal.Indices]:
    """Each device's places in `private`."""
    labels, clients, fewest = dataset.y[private], partition.clients, partition.min_examples
    match partition.kind:
        case "iid":
            return deal.iid(len(private), clients, rng, min_examples=fewest)
        case "dirichlet":
            return deal.dirichlet(labels, clients, rng, alpha=partition.alpha, min_examples=fewest)
        case "shards":
            each = partition.shards_per_client
            return deal.shards(labels, clients, rng, shards_per_client=each, min_examples=fewest)
        case "natural":
            return deal.natural(groups_of(dataset)[private], clients, rng, min_examples=fewest)


def hold_out(dataset: Dataset, hand: deal.Indices, fraction: float, rng: np.random.Generator) -> deal.Indices:
    """A share of a device's examples, in whole blocks; at least one example stays for training."""
    wanted = min(round(fraction * len(hand)), len(hand) - 1)
    if dataset.blocks is None:
        return np.sort(rng.permutation(hand)[:wanted])
    blocks = dataset.blocks[hand]
    values, counts = np.unique(blocks, return_counts=True)
    order = rng.permutation(len(values))
    taken = order[np.cumsum(counts[order]) <= wanted]
    return hand[np.isin(blocks, values[taken])]
