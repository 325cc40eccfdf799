"""Data sets by the people in them: who is held out as a whole."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.federation.datasets.catalog import Dataset
from fedmesh.types import Examples

__all__ = ["groups_of", "without_ids"]


def groups_of(dataset: Dataset) -> NDArray[np.int64]:
    """The natural id of each training example, [N]. Raises: ConfigError: there are none."""
    if dataset.groups is None:
        raise ConfigError(
            f"{dataset.name} has no natural ids: set partition.kind to iid, dirichlet or shards (or give the npz file "
            "an array `groups`)"
        )
    return dataset.groups


def without_ids(dataset: Dataset, number: int, rng: np.random.Generator) -> Dataset:
    """`dataset` with a test part of its own: all examples of `number` ids, drawn from training and test part together.

    Raises:
        ConfigError: examples have no natural ids, or no two of them would be left for the public and a device.
    """
    whole = _joined(dataset)
    groups = groups_of(whole)
    ids = rng.permutation(np.unique(groups))
    if number > len(ids) - 2:
        raise ConfigError(
            f"data.held_out_ids is {number}, and {dataset.name} has {len(ids)} ids: lower it, at least one must be "
            "public and one a device"
        )
    out = np.isin(groups, ids[:number])
    return replace(
        whole,
        x=whole.x[~out],
        y=whole.y[~out],
        groups=groups[~out],
        blocks=None if whole.blocks is None else whole.blocks[~out],
        test=Examples(whole.x[out], whole.y[out]),
        test_groups=groups[out],
        test_blocks=None if whole.blocks is None else whole.blocks[out],
    )


def _joined(dataset: Dataset) -> Dataset:
    """Training and test part as one training part."""
    if dataset.test is None:
        return dataset
    if dataset.test_groups is None or (dataset.blocks is not None and dataset.test_blocks is None):
        raise ConfigError(
            f"the test part of {dataset.name} has no natural ids, so data.held_out = 'ids' cannot be drawn from it: "
            "use 'official'"
        )
    blocks = None
    if dataset.blocks is not None and dataset.test_blocks is not None:
        blocks = np.concatenate([dataset.blocks, dataset.test_blocks])
    return replace(
        dataset,
        x=np.concatenate([dataset.x, dataset.test.x]),
        y=np.concatenate([dataset.y, dataset.test.y]),
        groups=np.concatenate([groups_of(dataset), dataset.test_groups]),
        blocks=blocks,
        test=None,
        test_groups=None,
        test_blocks=None,
    )
