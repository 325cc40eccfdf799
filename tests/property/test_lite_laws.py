"""Laws of the numpy head: its rounding is torch's to the last bit, its steps are torch's up to rounding."""

import dataclasses

import heads
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmesh.client.assignment import Assignment
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.trainer import Trainer
from fedmesh.privacy.settings import DpSettings
from fedmesh.quantization.grids import ActivationGrid
from fedmesh.quantization.rounding_numpy import quantize_activation, quantize_weights, weight_scales
from fedmesh.quantization.rounding_ops import quantize_activation as torch_activation
from fedmesh.quantization.rounding_ops import quantize_weights as torch_weights
from fedmesh.quantization.rounding_ops import weight_scales as torch_scales
from fedmesh.types import Examples, Float32

SCALES = st.sampled_from(["power-of-two", "free"])
MATRICES = st.tuples(st.integers(1, 5), st.integers(1, 9))
NUMBERS = st.floats(-1e6, 1e6, width=32) | st.floats(-2.0, 2.0, width=32) | st.floats(-(2.0**-100), 2.0**-100, width=32)
TIES = st.integers(-600, 600).map(lambda halves: halves / 256)


def matrices(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Float32]:
    return MATRICES.flatmap(lambda shape: arrays(np.float32, shape, elements=elements))


def grids() -> st.SearchStrategy[ActivationGrid]:
    def make(scales: str, exponent: int, factor: float, level: int) -> ActivationGrid:
        grid = ActivationGrid("input", scales, signed=True)  # type: ignore[arg-type]
        exact = scales == "power-of-two"
        grid.set(2.0**exponent * (1.0 if exact else factor), 2 * (level // 2) if exact else level)
        return grid

    return st.builds(make, SCALES, st.integers(-20, 10) | st.just(-7), st.floats(1.0, 2.0), st.integers(0, 255))


@settings(deadline=None, max_examples=300)
@given(matrices(NUMBERS | TIES), grids())
def test_activations_are_rounded_as_torch_rounds_them(x: Float32, grid: ActivationGrid) -> None:
    want = torch_activation(torch.from_numpy(x.copy()), grid.step, grid.low, grid.high, scales=grid.scales).numpy()
    np.testing.assert_array_equal(quantize_activation(x, grid), want)


@settings(deadline=None, max_examples=300)
@given(matrices(NUMBERS | TIES), SCALES)
def test_weights_are_rounded_as_torch_rounds_them(weight: Float32, scales: str) -> None:
    tensor = torch.from_numpy(weight.copy())
    columns = torch_scales(tensor, None, 1.0, scales)  # type: ignore[arg-type]
    np.testing.assert_array_equal(weight_scales(weight, scales), columns.numpy())  # type: ignore[arg-type]
    want, _ = torch_weights(tensor, None, columns, 1.0, scales)  # type: ignore[arg-type]
    got, bias = quantize_weights(weight, scales)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got, want.numpy())
    assert bias is None


@settings(deadline=None, max_examples=300)
@given(
    matrices(NUMBERS | TIES), SCALES, st.integers(-12, 4), st.integers(0, 1 << 30), st.sampled_from([1e-3, 1.0, 1e6])
)
def test_weights_with_a_bias_are_rounded_as_torch_rounds_them(
    weight: Float32, scales: str, exponent: int, seed: int, spread: float
) -> None:
    """The bias widens its channel's grid where it is much larger than the weights."""
    bias = (np.random.default_rng(seed).standard_normal(len(weight)) * spread).astype(np.float32)
    step = 2.0**exponent * (1.3 if scales == "free" else 1.0)
    tensors = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
    columns = torch_scales(*tensors, step, scales)  # type: ignore[arg-type]
    mine = weight_scales(weight, scales, bias, input_scale=step)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mine, columns.numpy())
    got = quantize_weights(weight, scales, bias, input_scale=step)  # type: ignore[arg-type]
    for ours, want in zip(got, torch_weights(*tensors, columns, step, scales), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(ours, want.numpy())  # type: ignore[arg-type, union-attr]


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(2, 7)),
    spread=st.sampled_from([0.01, 1.0, 20.0]),
    training=st.sampled_from(["qat", "float"]),
    clip=st.sampled_from([None, 0.05, 10.0]),
    seed=st.integers(0, 1 << 30),
)
def test_a_step_is_torchs(
    shape: tuple[int, int, int], spread: float, training: str, clip: float | None, seed: int
) -> None:
    """For one full batch, plain and private: no rounding of weights lies between the two."""
    rng, (count, width, classes) = np.random.default_rng(seed), shape
    dp = None if clip is None else DpSettings(8.0, 1e-5, clip, 0.01 / clip, 1.0, 1, 5.0)
    task = dataclasses.replace(
        heads.task(training=training, local_epochs=1, batch_size=16, dp=dp),
        input_shape=(width,),
        classes=classes,
        ranges={} if training == "float" else {"input": (2.0**-5, 100)},
    )
    examples = Examples(
        rng.normal(0, spread, (count, width)).astype(np.float32), rng.integers(0, classes, count, dtype=np.int64)
    )
    asked = Assignment(1, 0, rng.normal(0, spread, width * classes).astype(np.float32))
    mine = LiteTrainer(task).fit(asked, examples, ledger=heads.Recorder()).delta
    want = Trainer.of(task).fit(asked, examples, ledger=heads.Recorder()).delta
    # The weights themselves are float32, and are subtracted again.
    scale = np.abs(asked.weights).max() + np.abs(want).max()
    np.testing.assert_allclose(mine, want, atol=2e-6 * float(scale) + 1e-7)
