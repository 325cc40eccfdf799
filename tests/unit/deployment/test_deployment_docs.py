"""docs/operations.md names every key and every metric, and the example file of a coordinator is one."""

import re
from pathlib import Path
from typing import get_args

import pytest
from exported import EVERY_EVENT
from pydantic import BaseModel

from fedmesh.configuration import ClientConfig, CoordinatorConfig, PeerConfig
from fedmesh.observability import NodeMetrics, RunMetrics
from fedmesh.observability.mesh import MeshMetrics

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")


def keys(model: type[BaseModel], before: str = "") -> set[str]:
    """Dotted names of all values of a file."""
    found = set()
    for name, field in model.model_fields.items():
        inner = tables(field.annotation)
        found |= {key for table in inner for key in keys(table, f"{before}{name}.")} if inner else {f"{before}{name}"}
    return found


def tables(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in tables(part)]


@pytest.mark.parametrize("model", [ClientConfig, CoordinatorConfig, PeerConfig])
def test_every_key_is_named(model):
    assert len(keys(model)) >= 15
    assert {key for key in keys(model) if f"`{key}`" not in PAGE} == set()


def test_every_key_that_is_named_is_one():
    named = set(
        re.findall(r"`((?:privacy|secure_aggregation|limits|eligibility|inference|task|mesh|publish)\.[a-z_.]+)`", PAGE)
    )
    assert named <= keys(ClientConfig) | keys(CoordinatorConfig) | keys(PeerConfig)


def test_every_metric_is_named_and_no_other():
    node = NodeMetrics()
    run = RunMetrics(node.registry)
    MeshMetrics(node.registry, states=dict, links=lambda: 0)
    for event in EVERY_EVENT:
        run.sink("digits")(event)
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in node.registry.collect()
        if family.name.startswith("fedmesh_")
    }
    assert set(re.findall(r"`(fedmesh_[a-z_]+)`", PAGE)) == exported


def test_the_example_of_a_coordinator_is_one():
    config = CoordinatorConfig.load(ROOT / "deploy/coordinator.toml")
    assert config.task[0].scenario == "digits"
    assert config.journal_url.startswith("sqlite:////var/lib/fedmesh/state/")
