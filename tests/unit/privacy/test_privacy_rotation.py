import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.privacy.rotation import dimension, rotate, rotation_seed, unrotate

GENERATOR = np.random.default_rng(7)


def rotated(rows: np.ndarray, seed: bytes | int = b"seed") -> np.ndarray:
    ones = np.ones(len(rows))
    return rotate(rows, (ones, ones), seed)


def slow_hadamard(vector: np.ndarray) -> np.ndarray:
    """The definition: coordinate i is the sum of x_j times -1 to the number of ones in i & j."""
    signs = [[(-1) ** (i & j).bit_count() for j in range(len(vector))] for i in range(len(vector))]
    return np.array(signs) @ vector / np.sqrt(len(vector))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 31, 32, 33, 200, 512])
def test_the_rotation_is_signs_then_hadamard(size: int) -> None:
    x = GENERATOR.normal(size=size)
    length = dimension(size)
    signs = unrotate(slow_hadamard(np.ones(length)), b"seed")  # H H = 1, so this is the signs
    assert set(np.round(signs, 12)) <= {1.0, -1.0}
    padded = np.concatenate([x, np.zeros(length - size)])
    np.testing.assert_allclose(rotated(x[np.newaxis])[0], slow_hadamard(signs * padded), atol=1e-12)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 2), (5, 7), (2, 1000), (7, 64), (1, 2**17 + 1)])
def test_unrotate_is_the_inverse_of_every_row(count: int, size: int) -> None:
    rows = GENERATOR.normal(size=(count, size)).astype(np.float32)
    for row, image in zip(rows, rotated(rows), strict=True):
        back = unrotate(image, b"seed")
        np.testing.assert_allclose(back[:size], row, atol=1e-13 * size)
        np.testing.assert_allclose(back[size:], 0, atol=1e-13 * size)
        assert np.linalg.norm(image) == pytest.approx(np.linalg.norm(row.astype(float)))


def test_rows_are_scaled_before_they_are_rotated() -> None:
    rows = GENERATOR.normal(size=(3, 10))
    scaled = rotate(rows, (np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, 5.0])), 9)
    np.testing.assert_allclose(scaled, rotated(rows, 9) * np.array([[3.0], [0.5], [1.25]]))


def test_a_spike_is_spread_evenly() -> None:
    spike = np.zeros((1, 4096))
    spike[0, 17] = 1
    np.testing.assert_allclose(np.abs(rotated(spike)), 1 / 64)


def test_signs_are_fair_and_the_seed_decides_them() -> None:
    images = [unrotate(np.eye(1, 4096)[0], seed) for seed in (b"a", b"b", b"", 0, 1, -1, 2**300)]
    for image in images:
        assert abs(np.sign(image).sum()) < 6 * 64
    for number, image in enumerate(images):
        assert all(abs(np.dot(image, other)) < 6 / 64 for other in images[:number])
    np.testing.assert_array_equal(images[0], unrotate(np.eye(1, 4096)[0], b"a"))


def test_signs_are_pinned() -> None:
    """Golden: devices of different releases must rotate alike."""
    signs = unrotate(np.eye(1, 16)[0], b"golden")
    assert "".join("-" if sign < 0 else "+" for sign in signs) == GOLDEN_SIGNS
    assert rotation_seed(3, np.arange(4, dtype=np.float32)).hex() == GOLDEN_SEED


GOLDEN_SIGNS = "-+++---+---+++--"
GOLDEN_SEED = "983b7005b0feb0620e38f30772b68d2877a988d852923ad8eddf4ec17bb5878f"


def test_the_seed_of_a_round_is_of_its_number_and_weights() -> None:
    weights = GENERATOR.normal(size=5).astype(np.float32)
    seed = rotation_seed(1, weights)
    assert len(seed) == 32
    assert seed == rotation_seed(1, weights.copy())
    assert seed != rotation_seed(2, weights)
    assert seed != rotation_seed(1, np.nextafter(weights, np.float32(9)))


@pytest.mark.parametrize(
    ("size", "padded"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (2**20, 2**20), (2**20 + 1, 2**21)]
)
def test_dimension_is_the_next_power_of_two(size: int, padded: int) -> None:
    assert dimension(size) == padded


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_vector_has_no_rotation(size: int) -> None:
    with pytest.raises(ConfigError, match=str(size)):
        dimension(size)
