"""Examples become vectors of fixed features before anybody trains: one map, fitted on public examples, for all.

The map is part of what a run is: it lies in the run directory, and a run that goes on uses that file, never a second
fit.
"""

from dataclasses import replace
from pathlib import Path

from fedmesh.errors import ConfigError
from fedmesh.features import FeatureMap, fit, load, save
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import START_FILE
from fedmesh.federation.scenario import FeaturesSection, Scenario
from fedmesh.types import Examples

__all__ = ["FILE", "featured", "featured_example"]

FILE = "features.cbor"


def featured(data: FederatedData, scenario: Scenario, folder: Path) -> FederatedData:
    """`data` as the scenario's model sees it: every part mapped, labels as they were; `data` itself without features.

    Args:
        folder: the run directory: the map is read from it, or fitted on the public part and written to it.

    Raises:
        ConfigError: the features do not fit the data, or the file is damaged, of another scenario, or missing from a
            run that has begun.
        DataError: features that are not finite.
    """
    if scenario.features.name is None:
        return data
    features = _kept(scenario.features, data.public, folder / FILE)
    return replace(
        data,
        public=_mapped(features, data.public),
        devices=tuple(_mapped(features, device) for device in data.devices),
        local=tuple(_mapped(features, own) for own in data.local),
        held_out=_mapped(features, data.held_out),
    )


def featured_example(public: Examples, scenario: Scenario) -> Examples:
    """The first public example as the model would see it; raises as `featured`, before there is a run directory."""
    first = public[:1]
    return first if scenario.features.name is None else _mapped(_fitted(scenario.features, public), first)


def _kept(section: FeaturesSection, public: Examples, path: Path) -> FeatureMap:
    if not path.exists():
        if (path.parent / START_FILE).exists():
            raise ConfigError(
                f"{path} is missing, and this run has begun with it: put the run's own file back, or start a new run"
            )
        fitted = _fitted(section, public)
        save(fitted, path)
        return fitted
    found = load(path)
    got = (found.name, found.options, found.components, found.bias, found.input_shape)
    if got != (section.name, section.options, section.components, section.bias, public.x.shape[1:]):
        raise ConfigError(
            f"{path} is not of this run: it maps {list(found.input_shape)} by {found.name!r} to {found.components} "
            "components; put the run's own file back, or start a new run"
        )
    return found


def _fitted(section: FeaturesSection, public: Examples) -> FeatureMap:
    assert section.name is not None
    return fit(
        section.name,
        public,
        components=section.components,
        bias=section.bias,
        shrinkage=section.shrinkage,
        within=section.within,
        options=section.options,
    )


def _mapped(features: FeatureMap, examples: Examples) -> Examples:
    return Examples(features(examples.x), examples.y)
