import numpy as np

from fedmesh.privacy import KeyedNoise
from fedmesh.privacy.conditional_rounding import round_rows
from fedmesh.privacy.sensitivity import sensitivity

NO_LIMIT = 1 << 62


class Fixed:
    """Words that are all the same: every coordinate has bad luck, or none."""

    def __init__(self, word: int) -> None:
        self.word = word
        self.calls = 0

    def words(self, size: int) -> np.ndarray:
        self.calls += 1
        return np.full(size, self.word, np.uint64)


def test_every_coordinate_is_the_floor_or_one_more() -> None:
    rows = np.random.default_rng(1).normal(size=(7, 33)) * 100
    rounded = round_rows(rows, square_limit=NO_LIMIT, rng=KeyedNoise(1))
    assert rounded.dtype == np.int64
    assert (np.floor(rows) <= rounded).all()
    assert (rounded <= np.floor(rows) + 1).all()


def test_integers_stay_as_they_are() -> None:
    rows = np.arange(-500.0, 500.0).reshape(10, 100)
    assert (round_rows(rows, square_limit=NO_LIMIT, rng=KeyedNoise(2)) == rows).all()


def test_a_coordinate_goes_up_with_the_probability_of_its_fraction() -> None:
    values = np.array([0.0, 0.001, 0.25, 0.5, 0.999, -0.25, -3.75, 1e6 + 0.1])
    count = 200_000
    mean = round_rows(np.tile(values, (count, 1)), square_limit=NO_LIMIT, rng=KeyedNoise(3)).mean(axis=0)
    share = values - np.floor(values)
    assert (np.abs(mean - values) <= 6 * np.sqrt(share * (1 - share) / count) + 1e-9).all()


def test_rows_that_are_too_long_are_rounded_again_and_the_others_not() -> None:
    rows = np.full((4000, 8), 0.5)
    rounded = round_rows(rows, square_limit=4, rng=KeyedNoise(4))
    squares = (rounded**2).sum(axis=1)
    assert squares.max() == 4
    ways = np.array([1, 8, 28, 56, 70])  # of eight coins, the law given at most four heads
    expected = 4000 * ways / ways.sum()
    assert (((np.bincount(squares) - expected) ** 2 / expected).sum()) < 25  # four degrees of freedom


def test_with_bad_luck_for_ever_rounding_ends_towards_zero() -> None:
    up = Fixed(2**64 - 1)
    rows = np.array([[0.7, 0.5, -0.5, 3.2], [0.0, 1.0, 0.0, 0.0]])
    rounded = round_rows(rows, square_limit=10, rng=up)
    assert rounded.tolist() == [[0, 0, 0, 3], [0, 1, 0, 0]]
    assert up.calls == 64


def test_a_row_that_is_itself_too_long_becomes_zero() -> None:
    rows = np.array([[30.0, 40.0], [3.0, 4.0]])
    assert round_rows(rows, square_limit=25, rng=KeyedNoise(5)).tolist() == [[0, 0], [3, 4]]


def test_the_limit_is_exact_where_floats_are_not() -> None:
    """2^31 squared is 2^62: one more unit is beyond a float64's 53 bits."""
    row = np.array([[2.0**31, 1.0]])
    assert round_rows(row, square_limit=2**62 + 1, rng=KeyedNoise(6)).any()
    assert not round_rows(row, square_limit=2**62, rng=KeyedNoise(6)).any()


def test_a_vector_within_the_clip_is_seldom_rounded_twice() -> None:
    """The bound's beta says that 39 % succeed at least; in many dimensions it is nearly all."""
    rng = np.random.default_rng(8)
    for d, least in ((4, 0.39), (1024, 0.95)):
        rows = rng.normal(size=(500, d))
        rows *= 3 / np.linalg.norm(rows, axis=1, keepdims=True)
        limit = sensitivity(3.0, 1.0, d).square_limit
        rounded = round_rows(rows, square_limit=NO_LIMIT, rng=KeyedNoise(d))
        assert ((rounded**2).sum(axis=1) <= limit).mean() > least


def test_no_rows_give_no_rows() -> None:
    assert round_rows(np.zeros((0, 8)), square_limit=1, rng=KeyedNoise(9)).shape == (0, 8)
