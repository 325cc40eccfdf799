"""The share step: two secrets of a device, split, sealed to each peer, and opened again by them.

A pair is the receiver's share of the sender's seed, then of the sender's mask key. It is sealed under a key for one
direction of one pair of devices in one session, and authenticated together with session, sender and receiver.
"""

from collections.abc import Mapping

from fedmesh.secagg.agreement import derive
from fedmesh.secagg.sealing import OVERHEAD_BYTES, seal, unseal
from fedmesh.secagg.session import label
from fedmesh.secagg.shamir import split

__all__ = [
    "PAIR_BYTES",
    "SEALED_BYTES",
    "SHARE_BYTES",
    "mask_share",
    "open_pair",
    "seal_pair",
    "seed_share",
    "split_pairs",
]

SHARE_BYTES = 33
PAIR_BYTES = 2 * SHARE_BYTES
SEALED_BYTES = PAIR_BYTES + OVERHEAD_BYTES


def split_pairs(seed: bytes, mask: bytes, *, threshold: int, cohort: tuple[str, ...]) -> Mapping[str, bytes]:
    """The pair of every member of the cohort, in which `seed` and `mask` (32 bytes each) are shared."""
    seeds, masks = split(seed, threshold, len(cohort)), split(mask, threshold, len(cohort))
    return {name: a + b for name, a, b in zip(cohort, seeds, masks, strict=True)}


def seed_share(pair: bytes) -> bytes:
    """The share of the seed in a pair, 33 bytes."""
    return pair[:SHARE_BYTES]


def mask_share(pair: bytes) -> bytes:
    """The share of the mask key in a pair, 33 bytes."""
    return pair[SHARE_BYTES:]


def seal_pair(pair: bytes, channel: bytes, session: bytes, sender: str, receiver: str) -> bytes:
    """The pair, sealed with the Diffie-Hellman secret `channel` of the two devices."""
    route = label(session, sender, receiver)
    return seal(_key(channel, session, route), pair, route)


def open_pair(sealed: bytes, channel: bytes, session: bytes, sender: str, receiver: str) -> bytes:
    """The inverse of `seal_pair`. Raises: SecAggError: not sealed by `sender`, for `receiver`, in this session."""
    route = label(session, sender, receiver)
    return unseal(_key(channel, session, route), sealed, route)


def _key(channel: bytes, session: bytes, route: bytes) -> bytes:
    return derive(channel, salt=session, info=b"share" + route)
