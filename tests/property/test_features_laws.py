"""Laws of feature maps: alone or in company, in any order, the same bits; a file is its map."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.features import fit
from fedmesh.features.stored import decode, encode
from fedmesh.types import Examples

SHAPES = {"hog": (1, 14, 14), "inertial": (9, 128), "pixels": (3, 5)}


def drawn(name, count, seed, scale):
    rng = np.random.default_rng(seed)
    x = (scale * rng.normal(size=(count, *SHAPES[name]))).astype(np.float32)
    return Examples(np.maximum(x, 0) if name == "hog" else x, rng.integers(0, 3, count))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    within=st.sampled_from([0.0, 0.8]),
    count=st.integers(1, 40),
    data=st.data(),
)
def test_a_vector_depends_on_its_example_alone(*, name, seed, scale, within, count, data):
    features = fit(name, drawn(name, 30, seed, 1.0), components=5, bias=0.3, within=within)
    x = drawn(name, count, seed + 1, scale).x
    vectors = features(x)
    assert np.isfinite(vectors).all()
    order = data.draw(st.permutations(range(count)))
    chosen = order[: data.draw(st.integers(1, count))]
    assert features(x[chosen]).tobytes() == vectors[chosen].tobytes()
    assert decode(encode(features))(x).tobytes() == vectors.tobytes()
