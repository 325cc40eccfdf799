"""AES-256-GCM: the vectors of its specification, and what does not open."""

import os

import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.sealing import OVERHEAD_BYTES, seal, unseal

KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
NONCE = bytes.fromhex("cafebabefacedbaddecaf888")
PLAINTEXT = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b391aafd255"
)
CIPHERTEXT = bytes.fromhex(
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
    "c5f61e6393ba7a0abcc9f662898015ad"
)
GCM = [  # McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 to 16
    (bytes(32), bytes(12), b"", b"", "530f8afbc74536b9a963b4f1c4cb738b"),
    (bytes(32), bytes(12), bytes(16), b"", "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    (KEY, NONCE, PLAINTEXT, b"", CIPHERTEXT.hex() + "b094dac5d93471bdec1a502270e3cc6c"),
    (
        KEY,
        NONCE,
        PLAINTEXT[:60],
        bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        CIPHERTEXT[:60].hex() + "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


@pytest.mark.parametrize(("key", "nonce", "plaintext", "aad", "sealed"), GCM)
def test_the_specifications_vectors_open(key, nonce, plaintext, aad, sealed):
    assert unseal(key, nonce + bytes.fromhex(sealed), aad) == plaintext


@pytest.mark.parametrize("length", [0, 1, 32, 66, 5000])
def test_what_was_sealed_opens(length):
    key, plaintext = os.urandom(32), os.urandom(length)
    sealed = seal(key, plaintext, b"from a to b")
    assert len(sealed) == length + OVERHEAD_BYTES
    assert unseal(key, sealed, b"from a to b") == plaintext


def test_nonces_are_fresh():
    assert len({seal(bytes(32), b"", b"")[:12] for _ in range(1000)}) == 1000


def test_nothing_else_opens_and_the_refusal_shows_no_content():
    key, plaintext = os.urandom(32), b"the secret share"
    sealed = seal(key, plaintext, b"aad")
    flipped = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    cases = [(key, data, b"aad") for data in (*flipped, sealed[:-1], sealed + b"\0")]
    cases += [(os.urandom(32), sealed, b"aad"), (key, sealed, b"aae"), (key, sealed, b"")]
    for other_key, data, aad in cases:
        with pytest.raises(SecAggError, match="does not open") as refusal:
            unseal(other_key, data, aad)
        assert refusal.value.code == "signature"
        assert not any(secret in repr(refusal.value) for secret in ("secret", key.hex(), plaintext.hex()))


@pytest.mark.parametrize("data", [b"", bytes(11), bytes(12), bytes(27), "s" * 60, None, 40])
def test_what_is_too_short_or_no_bytes_is_refused(data):
    with pytest.raises(SecAggError, match="28 bytes or more") as refusal:
        unseal(bytes(32), data, b"")
    assert refusal.value.code == "signature"


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_shorter_key_is_the_callers_mistake(length):
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        unseal(bytes(length), bytes(40), b"")
