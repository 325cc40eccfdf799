"""Authenticated encryption: AES-256-GCM (SP 800-38D), a random 96-bit nonce in front.

Random nonces are safe for 2^32 messages under one key (SP 800-38D 8.3); a key here seals a handful.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmesh.errors import SecAggError

__all__ = ["OVERHEAD_BYTES", "seal", "unseal"]

_NONCE_BYTES = 12
_TAG_BYTES = 16
OVERHEAD_BYTES = _NONCE_BYTES + _TAG_BYTES


def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Nonce, ciphertext and tag, `OVERHEAD_BYTES` longer than `plaintext`; `key` has 32 bytes, `aad` is bound to it."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, plaintext, aad)


def unseal(key: bytes, data: bytes, aad: bytes) -> bytes:
    """The plaintext of ``seal(key, plaintext, aad)``.

    Raises:
        SecAggError: ``signature``: the key, the binding or the bytes are not those it was sealed with.
    """
    if not isinstance(data, bytes) or len(data) < OVERHEAD_BYTES:
        raise SecAggError(f"a sealed message is {OVERHEAD_BYTES} bytes or more: this is none", code="signature")
    nonce, body = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
    try:
        return _cipher(key).decrypt(nonce, body, aad)
    except InvalidTag as error:
        raise SecAggError(
            "a sealed message does not open: it was altered, or is not for this session and receiver", code="signature"
        ) from error


def _cipher(key: bytes) -> AESGCM:
    if len(key) != 32:
        raise ValueError(f"AES-256 wants a key of 32 bytes, not {len(key)}")
    return AESGCM(key)
