"""What a coordinator of real devices has of a data set: the public part, the same as in a simulation, and no more.

In a simulation the held-out examples of a set without an official test part are the devices'. Here they come out of the
public part, and the start is made without them.
"""

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.federation.datasets.catalog import Dataset
from fedmesh.federation.datasets.people import without_ids
from fedmesh.federation.datasets.split import FederatedData, choose_public, hold_out, streams_of
from fedmesh.federation.scenario import Scenario
from fedmesh.types import Examples

__all__ = ["public_part"]

_HELD_OUT = 0.2
"""Share of the public examples, where the scenario has its devices hold out nothing."""


def public_part(dataset: Dataset, scenario: Scenario) -> FederatedData:
    """`dataset` as the coordinator sees it: public and held-out examples, without devices.

    Raises:
        ConfigError: a part would be empty, or the scenario's ``[data]`` does not fit the data set.
    """
    section = scenario.data
    public_rng, _, held_out_rng, people_rng = streams_of(scenario.seed)
    if section.held_out_ids is not None:
        dataset = without_ids(dataset, section.held_out_ids, people_rng)
    chosen, _ = choose_public(dataset, section.public_fraction, section.public_ids, scenario.partition, public_rng)
    everything, held_out = Examples(dataset.x, dataset.y), dataset.test
    if held_out is None:
        cut = hold_out(dataset, chosen, section.local_held_out_fraction or _HELD_OUT, held_out_rng)
        if not len(cut):
            raise ConfigError(
                f"{len(chosen)} examples of {dataset.name} are public, too few to hold one out of: raise "
                "data.public_fraction"
            )
        held_out, chosen = everything[cut], np.setdiff1d(chosen, cut)
    return FederatedData(everything[chosen], (), (), held_out, dataset.classes, ())
