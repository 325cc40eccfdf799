"""Tests between machines on one link: skipped with one loud line where there can be none, a failure where CI runs."""

import os

import pytest

from fedmesh.testing.namespaces import Lan, Machine, missing

__all__ = ["Lan", "Machine", "require_namespaces"]


def require_namespaces(*, filters: bool = False) -> None:
    """For a whole module; `filters`: whether frames are to be dropped, too."""
    if needed := missing(filters=filters):
        text = f"NO NETWORK NAMESPACES: nothing is tested between machines on one link, it needs {needed}"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text, allow_module_level=True)
