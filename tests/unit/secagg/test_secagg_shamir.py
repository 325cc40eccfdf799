"""Shamir sharing: every subset gives the secret, fewer shares say nothing, and what is refused."""

import itertools
import math
import random
import secrets

import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.shamir import PRIME, SHARE_BYTES, combine, split


def test_the_field_is_the_first_prime_beyond_the_secrets():
    assert [n for n in range(2**256 + 1, PRIME + 1) if is_probable_prime(n)] == [PRIME]


def is_probable_prime(number):
    """Miller-Rabin with 40 bases."""
    if any(number % small == 0 for small in range(3, 100, 2)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        value = pow(base, odd, number)
        if value not in {1, number - 1} and all(pow(value, 2**j, number) != number - 1 for j in range(1, twos)):
            return False
    return True


def slow_interpolation(points, at, prime=PRIME):
    """Lagrange as it is written on paper: points {x: y}, the value at `at`."""
    total = 0
    for x, y in points.items():
        for other in points:
            if other != x:
                y = y * (at - other) * pow(x - other, -1, prime) % prime  # noqa: PLW2901 - the product builds up
        total += y
    return total % prime


def numbered(shares):
    return dict(enumerate(shares, 1))


@pytest.mark.parametrize(("threshold", "holders"), [(t, n) for n in range(1, 8) for t in range(1, n + 1)])
def test_every_subset_of_threshold_shares_gives_the_secret(threshold, holders):
    for secret in (bytes(32), b"\xff" * 32, secrets.token_bytes(32)):
        shares = numbered(split(secret, threshold, holders))
        for chosen in itertools.combinations(shares, threshold):
            assert combine({holder: shares[holder] for holder in chosen}, threshold) == secret


def test_a_hundred_holders_of_whom_sixty_seven_are_needed():
    secret, dice = secrets.token_bytes(32), random.Random(7)
    shares = numbered(split(secret, 67, 100))
    for _ in range(30):
        chosen = dice.sample(sorted(shares), 67)
        assert combine({holder: shares[holder] for holder in chosen}, 67) == secret


def test_agrees_with_the_slow_twin():
    secret = secrets.token_bytes(32)
    shares = split(secret, 5, 9)
    points = {x: int.from_bytes(share, "big") for x, share in numbered(shares).items()}
    for chosen in itertools.combinations(points, 5):
        some = {x: points[x] for x in chosen}
        assert slow_interpolation(some, 0) == int.from_bytes(secret, "big")
        assert all(slow_interpolation(some, x) == y for x, y in points.items())


def test_the_order_of_the_shares_does_not_matter_and_more_than_enough_is_fine():
    secret = secrets.token_bytes(32)
    shares = numbered(split(secret, 4, 9))
    assert combine(dict(reversed(shares.items())), 4) == secret


def test_two_splits_of_a_secret_share_no_share():
    secret = secrets.token_bytes(32)
    seen = [share for _ in range(20) for share in split(secret, 3, 10)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(("threshold", "holders"), [(2, 3), (3, 4), (4, 4)])
def test_fewer_shares_say_nothing_exhaustively_over_a_small_field(threshold, holders):
    """Over GF(7), whatever the secret, every set of threshold - 1 shares has every value equally often.

    The scheme is the same, only the prime is small enough to draw every polynomial there is.
    """
    prime = 7
    for known in itertools.combinations(range(1, holders + 1), threshold - 1):
        seen_by_secret = []
        for secret in range(prime):
            seen = {}
            for coefficients in itertools.product(range(prime), repeat=threshold - 1):
                polynomial = (secret, *coefficients)
                view = tuple(sum(c * x**k for k, c in enumerate(polynomial)) % prime for x in known)
                seen[view] = seen.get(view, 0) + 1
            seen_by_secret.append(seen)
        assert all(seen == seen_by_secret[0] for seen in seen_by_secret)
        assert set(seen_by_secret[0].values()) == {1}
        assert len(seen_by_secret[0]) == prime ** (threshold - 1)


def test_fewer_shares_fit_every_secret():
    """For t - 1 real shares and any candidate there is a polynomial through both: the holders cannot tell."""
    secret = secrets.token_bytes(32)
    shares = numbered(split(secret, 5, 7))
    known = {x: int.from_bytes(shares[x], "big") for x in (1, 3, 4, 6)}
    for candidate in (bytes(32), b"\xff" * 32, secrets.token_bytes(32), secret):
        points = {0: int.from_bytes(candidate, "big"), **known}
        completed = {x: slow_interpolation(points, x).to_bytes(33, "big") for x in range(1, 8)}
        assert all(completed[x] == shares[x] for x in known)
        for chosen in itertools.combinations(completed, 5):
            assert combine({x: completed[x] for x in chosen}, 5) == candidate


def test_shares_are_uniform_over_the_field():
    """The shares of one holder, of the all-zero secret: chi-square over 64 bins of the field, within eight sigma."""
    bins, splits = [0] * 64, 6400
    for _ in range(splits):
        bins[int.from_bytes(split(bytes(32), 2, 2)[1], "big") * 64 // PRIME] += 1
    chi_square = sum((count - splits / 64) ** 2 / (splits / 64) for count in bins)
    assert abs(chi_square - 63) < 8 * math.sqrt(2 * 63)


def refused(shares, threshold, match):
    with pytest.raises(SecAggError, match=match) as refusal:
        combine(shares, threshold)
    assert refusal.value.code == "shares"


def test_too_few_shares_are_refused():
    shares = numbered(split(bytes(32), 4, 6))
    refused({x: shares[x] for x in (1, 2, 3)}, 4, "3 shares arrived, 4 are needed")
    refused({}, 1, "0 shares arrived, 1 are needed")
    refused(shares, 0, "6 shares arrived, 0 are needed")


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), "s" * 33, 5, None])
def test_a_share_of_another_form_is_refused(share):
    refused({1: share, 2: bytes(33)}, 2, "the share of holder 1 is not 33 bytes")


def test_a_share_beyond_the_field_is_refused():
    refused({1: PRIME.to_bytes(33, "big"), 2: bytes(33)}, 2, "holder 1")
    refused({1: b"\xff" * 33, 2: bytes(33)}, 2, "holder 1")


@pytest.mark.parametrize("holder", [0, -1, 65537, PRIME + 1])
def test_a_holder_that_cannot_be_is_refused(holder):
    """Holder 0 would be the secret itself; p + 1 would be holder 1 counted twice."""
    refused({holder: bytes(33), 1: bytes(33)}, 2, f"no holder {holder}")


def test_a_wrong_share_gives_another_secret_or_none_never_this_one():
    secret = secrets.token_bytes(32)
    shares = numbered(split(secret, 3, 3))
    for _ in range(50):
        wrong = {**shares, 2: secrets.randbelow(PRIME).to_bytes(33, "big")}
        assert combine(wrong, 3) != secret


def test_a_result_that_is_no_secret_is_refused():
    """Between 2^256 and p there are 297 elements that no `split` starts from."""
    for element in (2**256, PRIME - 1):
        refused({x: element.to_bytes(33, "big") for x in (1, 2)}, 2, "do not belong together")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_has_32_bytes(length):
    with pytest.raises(SecAggError, match=f"32 bytes, not {length}") as refusal:
        split(bytes(length), 2, 3)
    assert refusal.value.code == "shares"


@pytest.mark.parametrize(("threshold", "holders"), [(0, 3), (4, 3), (-1, 3), (1, 0), (2, 65537)])
def test_a_threshold_that_cannot_be_is_refused(threshold, holders):
    with pytest.raises(SecAggError, match=f"{threshold} of {holders} holders") as refusal:
        split(bytes(32), threshold, holders)
    assert refusal.value.code == "shares"


def test_shares_have_one_length():
    assert {len(share) for share in split(b"\xff" * 32, 7, 50)} == {SHARE_BYTES}
