"""What all parties of a session must agree on, folded into 32 bytes that salt every key and sit in every signature.

`binding` covers the header and the cohort's identity keys as *this* party has them pinned; `input_context` also covers
the model and the scales that the inputs belong to. Parties that were told different things do not fail politely: their
masks do not cancel and their signatures do not count, so nothing is revealed.
"""

import hashlib

from fedmesh.secagg.header import PROTOCOL, SessionHeader
from fedmesh.secagg.identity import Roster

__all__ = ["binding", "commitment", "digest", "input_context", "label", "survivors_digest"]

_LENGTHS = tuple(length.to_bytes(8, "big") for length in range(256))  # of names and keys: hundreds a message


def label(*parts: str | bytes) -> bytes:
    """The parts behind each other, each with its length (8 bytes, big endian) before it: no two lists look alike."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        size = len(encoded)
        pieces += (_LENGTHS[size] if size < len(_LENGTHS) else size.to_bytes(8, "big"), encoded)
    return b"".join(pieces)


def digest(purpose: str, *parts: str | bytes) -> bytes:
    """SHA-256 over the protocol, the purpose and the parts: 32 bytes that mean this and nothing else."""
    return hashlib.sha256(label(PROTOCOL, purpose, *parts)).digest()


def binding(header: SessionHeader, roster: Roster) -> bytes:
    """The session and the pinned identity keys of its cohort, 32 bytes.

    Raises:
        SecAggError: a member of the cohort is not on the roster.
    """
    return digest("session", header.sid, *(roster.key(name) for name in header.cohort))


def input_context(session: bytes, model_hash: bytes, scale_hash: bytes) -> bytes:
    """The session (its `binding`) together with the model and the scales that the inputs belong to, 32 bytes."""
    return digest("input", session, model_hash, scale_hash)


def commitment(session: bytes, name: str, seed: bytes) -> bytes:
    """Binds `name` to the seed of its own mask without telling it: the seed has 256 random bits."""
    return digest("commitment", session, name, seed)


def survivors_digest(context: bytes, survivors: tuple[str, ...]) -> bytes:
    """What is signed in the consistency step: these inputs, and no others, are in the sum."""
    return digest("survivors", context, *survivors)
