"""The laws of `Head`: what is spread over a model is zero outside of the head, and is taken out as it was."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.quantization.head import Head

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    classes, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    arrays = [(f"layer-{index}", shape) for index, shape in enumerate(draw(st.lists(SHAPES, max_size=5)))]
    own = [("head.weight", (classes, width))]
    own += [("head.bias", (classes,))] if draw(st.booleans()) else []
    for entry in own:  # anywhere, and in any order
        arrays.insert(draw(st.integers(0, len(arrays))), entry)
    names, shapes = zip(*arrays, strict=True)
    return Head(names, shapes, "head.weight", "head.bias" if len(own) == 2 else None, "input", signed=True)


@given(heads(), st.integers(0, 1 << 30))
def test_spread_and_take_are_inverse_and_nothing_else_moves(head: Head, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.standard_normal(head.size).astype(np.float32)
    whole = head.spread(own)
    np.testing.assert_array_equal(head.take(whole), own)
    parts = head.layout.unflatten(whole)
    np.testing.assert_array_equal(parts[head.weight].ravel(), own[: head.classes * head.width])
    if head.bias is not None:
        np.testing.assert_array_equal(parts[head.bias], own[head.classes * head.width :])
    assert not any(part.any() for name, part in parts.items() if name not in (head.weight, head.bias))
    np.testing.assert_array_equal(head.take(whole + 0), head.take(whole))
