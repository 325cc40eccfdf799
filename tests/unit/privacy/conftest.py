from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    """Models and images of these tests are drawn from one seed, which no other test sees."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield
