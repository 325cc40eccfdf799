"""The clip holds for every length and every norm, in spite of float32."""

import pytest
import torch

from fedmesh.privacy.clipping import add_clipped, row_norms


@pytest.mark.parametrize("norm", [0.5, 1e3, 1e8, 1e15])
@pytest.mark.parametrize("size", [1, 10, 1023, 1025, 3_000_000])
def test_no_example_adds_more_than_the_clip(size: int, norm: float) -> None:
    for seed in range(1 if size > 10_000 else 20):
        row = torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
        row *= norm / row.double().norm()
        total = torch.zeros(size)
        add_clipped([total], [row], 0.5)
        assert 0.5 - 2e-6 <= total.double().norm() <= 0.5


def test_norms_do_not_lose_the_end_of_a_long_row() -> None:
    rows = torch.randn(2, 3_000_001, generator=torch.Generator().manual_seed(1))
    rows[1] = 1.0
    torch.testing.assert_close(row_norms(rows).double(), rows.double().norm(dim=1), rtol=2e-7, atol=0)
    assert row_norms(rows[:, :0]).tolist() == [0.0, 0.0]
