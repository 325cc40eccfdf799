from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import fedmesh
from fedmesh import types
from fedmesh.errors import DecodeError
from fedmesh.types import Examples, Layout

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=5)


@given(shapes, st.integers(0, 2**32))
def test_unflatten_is_the_inverse_of_flatten(shapes, seed):
    rng = np.random.default_rng(seed)
    arrays = {f"layer{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    layout = Layout.of(arrays)
    flat = layout.flatten(arrays)
    assert flat.shape == (layout.size,)
    assert flat.dtype == np.float32
    back = layout.unflatten(flat)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_layouts_that_differ_in_a_name_a_shape_or_the_order_have_other_digests():
    a, b = np.zeros((2, 3)), np.zeros(4)
    digests = {
        Layout.of(arrays).digest
        for arrays in ({"a": a, "b": b}, {"b": b, "a": a}, {"a": a.T, "b": b}, {"a": a, "c": b}, {"a": a})
    }
    assert len(digests) == 5
    assert Layout.of({"a": a, "b": b}).digest == Layout.of({"a": a, "b": b}).digest


def test_arrays_of_another_model_are_refused_with_both_shapes():
    layout = Layout.of({"weight": np.zeros((2, 3))})
    with pytest.raises(DecodeError, match=r"weight\[3, 2\].*weight\[2, 3\]"):
        layout.flatten({"weight": np.zeros((3, 2), np.float32)})
    with pytest.raises(DecodeError, match=r"\(5,\).*6 values"):
        layout.unflatten(np.zeros(5))


def test_examples_are_cut_together():
    examples = Examples(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([7, 8, 9]))
    cut = examples[1:]
    assert len(examples) == 3
    assert cut.y.tolist() == [8, 9]
    assert cut.x.tolist() == [[2, 3], [4, 5]]


def test_the_types_of_arrays_are_there_when_they_are_used():
    assert types.Float32 == NDArray[np.float32]
    assert types.Arrays == fedmesh.Arrays == Mapping[str, NDArray[np.float32]]
    for module in (types, fedmesh):
        assert all(hasattr(module, name) for name in module.__all__)
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'Float16'"):
            _ = module.Float16
