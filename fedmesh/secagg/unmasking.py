"""Taking the masks off a sum: secrets are put together from shares, checked against what was published, expanded.

A wrong share is noticed, since a seed has a commitment and a mask key its public key; then other shares are tried. No
sum is computed from a secret that was not checked.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg.agreement import KeyPair
from fedmesh.secagg.masks import add_masks
from fedmesh.secagg.pairwise import mask_key, own_seed, pair_seed
from fedmesh.secagg.session import commitment
from fedmesh.secagg.shamir import combine

__all__ = ["reconstruct", "remove_dropped", "remove_own"]

Elements = NDArray[np.unsignedinteger[Any]]


def reconstruct(shares: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool], owner: str) -> bytes:
    """The secret that `threshold` of the shares (place -> 33 bytes) give and `is_right` accepts.

    Raises:
        SecAggError: none of the choices that were tried does; some device has sent wrong shares.
    """
    for chosen in _choices(list(shares), threshold):
        try:
            secret = combine({place: shares[place] for place in chosen}, threshold)
        except SecAggError:
            continue  # a share that is out of range: without it, perhaps
        if is_right(secret):
            return secret
    raise SecAggError(
        f"the shares of {owner!r} do not give the secret that it published: a device sent wrong ones", code="shares"
    )


def _choices(places: list[int], threshold: int) -> Iterator[list[int]]:
    """Cyclic windows: one wrong share is always avoided by one of them, if there is a share to spare."""
    for start in range(len(places) if len(places) > threshold else 1):
        yield [places[(start + step) % len(places)] for step in range(threshold)]


def remove_own(
    total: Elements,
    shares: Mapping[str, Mapping[int, bytes]],
    commitments: Mapping[str, bytes],
    *,
    threshold: int,
    session: bytes,
    context: bytes,
    threads: int,
) -> None:
    """Takes every survivor's own mask off `total`, in place; `shares` by survivor. Raises: as `reconstruct`.

    After an error `total` is worth nothing.
    """

    def is_seed(name: str, secret: bytes) -> bool:
        return commitment(session, name, secret) == commitments[name]

    def seeds() -> Iterator[bytes]:
        for name, held in shares.items():
            yield own_seed(reconstruct(held, threshold, partial(is_seed, name), name), context)

    add_masks(total, (), seeds(), threads=threads)


def remove_dropped(
    total: Elements,
    shares: Mapping[str, Mapping[int, bytes]],
    adverts: Mapping[str, bytes],
    survivors: tuple[str, ...],
    cohort: tuple[str, ...],
    *,
    threshold: int,
    context: bytes,
    threads: int,
) -> None:
    """Takes the masks that survivors share with dropped devices off `total`, in place; `shares` by dropped device.

    Raises: as `reconstruct`.
    """

    def is_key(name: str, secret: bytes) -> bool:
        return KeyPair.from_private(secret).public == mask_key(adverts[name])

    keys = [
        (name, KeyPair.from_private(reconstruct(held, threshold, partial(is_key, name), name)))
        for name, held in shares.items()
    ]
    places = {name: place for place, name in enumerate(cohort)}

    def pairs(*, earlier: bool) -> Iterator[bytes]:
        """Of two devices the earlier has added the mask, the other taken it away."""
        for name, key in keys:
            for survivor in survivors:
                if (places[survivor] < places[name]) is earlier:
                    ends = (survivor, name) if earlier else (name, survivor)
                    yield pair_seed(key, mask_key(adverts[survivor]), context, *ends)

    add_masks(total, pairs(earlier=False), pairs(earlier=True), threads=threads)
