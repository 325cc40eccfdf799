"""Fixed features: hand-made extractors, and a map fitted on public examples alone that no private example ever moves.

A linear head on good fixed features has few weights and a well-conditioned loss, which is what a privacy budget buys
most from (Tramer and Boneh 2021). Extractors are entry points of the group fedmesh.features; numpy only, no torch.
"""

from fedmesh.features.feature_map import FeatureMap, fit
from fedmesh.features.stored import load, save

__all__ = ["FeatureMap", "fit", "load", "save"]
