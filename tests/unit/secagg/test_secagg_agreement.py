"""X25519 and HKDF: the standards' vectors, and the keys that are refused."""

import copy
import pickle

import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.agreement import KeyPair, derive

FIELD = 2**255 - 19
RFC_7748 = [  # 5.2, the second with its unused top bit clear
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a413",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]
LOW_ORDER = [  # u coordinates of the points whose order divides eight, on the curve and its twist
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
]


@pytest.mark.parametrize(("private", "peer", "secret"), RFC_7748)
def test_rfc_7748_scalar_multiplication(private, peer, secret):
    assert KeyPair.from_private(bytes.fromhex(private)).shared(bytes.fromhex(peer)).hex() == secret


def test_rfc_7748_iterated():
    scalar = point = (9).to_bytes(32, "little")
    after = {}
    for turn in range(1, 1001):
        scalar, point = KeyPair.from_private(scalar).shared(point), scalar
        after[turn] = scalar.hex()
    assert after[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert after[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_rfc_7748_diffie_hellman():
    alice = KeyPair.from_private(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = KeyPair.from_private(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    secret = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.shared(bob.public).hex() == bob.shared(alice.public).hex() == secret


RFC_5869 = [  # A.1, A.2, A.3
    (
        "0b" * 22,
        bytes(range(0x0D)).hex(),
        bytes(range(0xF0, 0xFA)).hex(),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "info", "derived"), RFC_5869)
def test_rfc_5869(secret, salt, info, derived):
    secret, salt, info = bytes.fromhex(secret), bytes.fromhex(salt), bytes.fromhex(info)
    assert derive(secret, salt=salt, info=info, length=len(derived) // 2).hex() == derived
    assert derive(secret, salt=salt, info=info).hex() == derived[:64]


def test_a_pair_comes_back_from_its_private_bytes():
    pair = KeyPair.generate()
    again = KeyPair.from_private(pair.private_bytes())
    assert (again.public, again.private_bytes()) == (pair.public, pair.private_bytes())
    assert len({KeyPair.generate().public for _ in range(50)}) == 50


def test_a_reflected_key_is_refused():
    pair = KeyPair.generate()
    with pytest.raises(SecAggError, match="own agreement key") as refusal:
        pair.shared(pair.public)
    assert refusal.value.code == "identity"


@pytest.mark.parametrize("u", LOW_ORDER)
def test_a_key_of_low_order_is_refused(u):
    with pytest.raises(SecAggError, match="low order") as refusal:
        KeyPair.generate().shared(u.to_bytes(32, "little"))
    assert refusal.value.code == "identity"


@pytest.mark.parametrize("u", [FIELD, FIELD + 1, FIELD + 9, 2**255 - 1, 2**255 + 9, 2**256 - 1])
def test_a_second_spelling_of_a_key_is_refused(u):
    with pytest.raises(SecAggError, match="canonical") as refusal:
        KeyPair.generate().shared(u.to_bytes(32, "little"))
    assert refusal.value.code == "identity"


def test_a_reflected_key_with_its_unused_bit_set_is_refused():
    pair = KeyPair.generate()
    with pytest.raises(SecAggError, match="canonical"):
        pair.shared(pair.public[:31] + bytes([pair.public[31] | 128]))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "k" * 32, None, 9])
def test_what_is_no_key_of_a_peer_is_refused(key):
    with pytest.raises(SecAggError, match="an agreement key is 32 bytes") as refusal:
        KeyPair.generate().shared(key)
    assert refusal.value.code == "identity"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_private_key_has_32_bytes(length):
    with pytest.raises(SecAggError, match=f"32 bytes, not {length}"):
        KeyPair.from_private(bytes(length))


def test_a_pair_shows_and_spreads_nothing_private():
    pair = KeyPair.generate()
    assert repr(pair) == str(pair) == f"KeyPair({pair.public.hex()[:8]}…)"
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled"):
            spread(pair)
