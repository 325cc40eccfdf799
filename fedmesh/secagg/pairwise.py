"""Keys between two devices: checked when they are advertised; agreed on to seal shares and to make cancelling masks."""

from collections.abc import Mapping

from fedmesh import wire
from fedmesh.errors import SecAggError
from fedmesh.secagg.agreement import KeyPair, check_public, derive
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Roster
from fedmesh.secagg.messages import Envelope, Kind, verify_body
from fedmesh.secagg.session import label
from fedmesh.secagg.survivors import check_members

__all__ = [
    "ADVERT_BYTES",
    "KEY_BYTES",
    "checked_adverts",
    "cipher_key",
    "mask_key",
    "mask_seeds",
    "own_seed",
    "pair_seed",
    "require_distinct",
    "require_sound",
    "verified_adverts",
]

KEY_BYTES = 32
ADVERT_BYTES = 2 * KEY_BYTES + 64  # two X25519 public keys, and the device's signature over its advertise message


def cipher_key(keys: bytes) -> bytes:
    """The public key that shares are sealed to."""
    return keys[:KEY_BYTES]


def mask_key(keys: bytes) -> bytes:
    """The public key that masks are made with."""
    return keys[KEY_BYTES : 2 * KEY_BYTES]


def checked_adverts(
    adverts: Mapping[str, bytes], header: SessionHeader, session: bytes, roster: Roster, *, own: tuple[str, bytes]
) -> dict[str, bytes]:
    """Public keys (64 bytes) of every device in the share step, in cohort order.

    Args:
        adverts: name -> keys and signature, as the aggregator passed them on.
        own: name and keys of the device that checks.

    Raises:
        SecAggError: a signature is not by the pinned identity for this session, a key is weak or appears twice, this
            device's own entry is not its own, or there are too few.
    """
    name, keys = own
    if name not in adverts or adverts[name][: 2 * KEY_BYTES] != keys:
        raise SecAggError("this device's own keys were left out or replaced", code="identity")
    return verified_adverts(adverts, header, session, roster)


def verified_adverts(
    adverts: Mapping[str, bytes], header: SessionHeader, session: bytes, roster: Roster
) -> dict[str, bytes]:
    """As `checked_adverts`, for who has no keys of its own among them."""
    members = check_members(adverts, header, among=header.cohort)
    found = {member: adverts[member][: 2 * KEY_BYTES] for member in members}
    require_distinct(found)
    for member in members:
        require_sound(found[member])
        body, signature = wire.dumps(found[member]), adverts[member][2 * KEY_BYTES :]
        verify_body(Envelope(Kind.ADVERTISE, header.sid, member, body, signature), session, roster)
    return found


def require_sound(keys: bytes) -> None:
    """Raises: SecAggError: one of a device's two public keys is malformed or of low order."""
    check_public(cipher_key(keys))
    check_public(mask_key(keys))


def require_distinct(adverts: Mapping[str, bytes]) -> None:
    """Raises: SecAggError: a key is advertised twice, by one device or by two (a reflected key is one of them)."""
    keys = [part for both in adverts.values() for part in (cipher_key(both), mask_key(both))]
    if len(set(keys)) != len(keys):
        raise SecAggError("a key is advertised twice: one of them is a copy of another device's", code="identity")


def own_seed(seed: bytes, context: bytes) -> bytes:
    """The seed of a device's own mask, 32 bytes."""
    return derive(seed, salt=context, info=b"own mask")


def pair_seed(key: KeyPair, peer: bytes, context: bytes, first: str, second: str) -> bytes:
    """The seed that two devices share, 32 bytes; `first` is the one that adds the mask, `second` takes it away."""
    return derive(key.shared(peer), salt=context, info=b"pair mask" + label(first, second))


def mask_seeds(
    name: str,
    key: KeyPair,
    adverts: Mapping[str, bytes],
    *,
    cohort: tuple[str, ...],
    sharers: tuple[str, ...],
    context: bytes,
) -> tuple[list[bytes], list[bytes]]:
    """Seeds of the masks that device `name` adds, and of those that it takes away: of two devices the earlier adds."""
    places = {member: place for place, member in enumerate(cohort)}
    plus, minus = [], []
    for peer in sharers:
        if peer == name:
            continue
        if places[name] < places[peer]:
            plus.append(pair_seed(key, mask_key(adverts[peer]), context, name, peer))
        else:
            minus.append(pair_seed(key, mask_key(adverts[peer]), context, peer, name))
    return plus, minus
