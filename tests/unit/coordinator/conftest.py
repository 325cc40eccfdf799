"""Flower logs on stderr as it likes: not here."""

from collections.abc import Iterator

import pytest

from fedmesh.flower import quiet_flower


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_flower():
        yield
