"""Shamir sharing over GF(p), p = 2^256 + 297 (Shamir 1979). Not constant-time.

Any `threshold` shares of a secret give it back; fewer say nothing about it, whatever they are (every secret has exactly
one polynomial through them). No share proves that it is right: the caller checks the secret against a commitment.
p is the first prime beyond 2^256, so every 32-byte secret is an element.
"""

import secrets
from collections.abc import Mapping
from functools import lru_cache

from fedmesh.errors import SecAggError

__all__ = ["PRIME", "SHARE_BYTES", "combine", "split"]

PRIME = (1 << 256) + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
MAX_HOLDERS = 1 << 16


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """The shares of `secret` (32 bytes) for the holders 1, 2, ..., `holders`, in that order, 33 bytes each.

    Raises:
        SecAggError: ``shares``: the secret is not 32 bytes, or not ``1 <= threshold <= holders <= 65536``.
    """
    if len(secret) != SECRET_BYTES:
        raise SecAggError(f"a secret to share has {SECRET_BYTES} bytes, not {len(secret)}", code="shares")
    if not 1 <= threshold <= holders <= MAX_HOLDERS:
        raise SecAggError(f"{threshold} of {holders} holders: wanted 1 <= threshold <= holders", code="shares")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    return [_value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, holders + 1)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The 32-byte secret from the `threshold` shares of the lowest holder numbers (holder -> 33 bytes).

    Raises:
        SecAggError: ``shares``: too few, malformed or out of range, or the result is no 32-byte secret.
    """
    if threshold < 1 or len(shares) < threshold:
        raise SecAggError(f"{len(shares)} shares arrived, {threshold} are needed", code="shares")
    holders = tuple(sorted(shares))[:threshold]
    values = [_element(holder, shares[holder]) for holder in holders]
    weights = _weights_at_zero(holders)
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise SecAggError("the shares do not belong together: they give no 32-byte secret", code="shares")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], x: int) -> int:
    """The polynomial at `x`, highest coefficient first; `x` is small, so reducing once at the end is faster."""
    value = 0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value % PRIME


def _element(holder: int, share: bytes) -> int:
    if not 1 <= holder <= MAX_HOLDERS:
        raise SecAggError(f"there is no holder {holder}: they count from 1", code="shares")
    if not isinstance(share, bytes) or len(share) != SHARE_BYTES or (value := int.from_bytes(share, "big")) >= PRIME:
        raise SecAggError(f"the share of holder {holder} is not {SHARE_BYTES} bytes of an element", code="shares")
    return value


@lru_cache(maxsize=256)  # a wrong share makes the caller try every window of the holders
def _weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange: the secret is the sum of weight times share, for these holders."""
    weights = []
    for holder in holders:
        above, below = 1, 1
        for other in holders:
            if other != holder:
                above, below = above * other, below * (other - holder)
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
