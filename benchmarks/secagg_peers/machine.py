"""What the machine itself can do, on one thread: AES keystream, and additions in and out of the caches."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from benchmarks.secagg_peers.clocks import Cost, best_of
from fedmesh.secagg.masks import add_mask

REPEATS = 25  # short operations, on a machine that others use
_CHUNK = 1 << 18
_WORK = 200 * _CHUNK  # 52 MB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second of processor time. `aes_ctr` is the floor that targets are measured against."""

    aes_ctr: float
    aes_gcm: float
    add_in_cache: float
    add_in_memory: float

    def keystream_s(self, size: int) -> float:
        """Seconds in which AES-128-CTR makes `size` bytes."""
        return size / self.aes_ctr


def limits() -> Limits:
    """The best of several; additions count the bytes of keystream that they consume."""
    small, large = np.zeros(_CHUNK, np.uint8).view(np.uint16), np.zeros(_WORK, np.uint8).view(np.uint16)
    other = large.copy()
    return Limits(
        aes_ctr=_rate(lambda: _keystream(modes.CTR(bytes(16)))),
        aes_gcm=_rate(lambda: _keystream(modes.GCM(bytes(12)))),
        add_in_cache=_rate(lambda: [np.add(small, small, out=small) for _ in range(_WORK // _CHUNK)]),
        add_in_memory=_rate(lambda: np.add(large, other, out=large)),
    )


def expansion(elements: int, dtype: type[np.unsignedinteger]) -> tuple[Cost, Cost]:
    """One mask added to a vector, and AES-128-CTR into a buffer of as many bytes."""
    vector = np.zeros(elements, dtype)
    zeros, buffer = bytes(vector.nbytes), bytearray(vector.nbytes)

    def floor() -> None:
        Cipher(algorithms.AES128(bytes(16)), modes.CTR(bytes(16))).encryptor().update_into(zeros, buffer)

    return best_of(REPEATS, lambda: add_mask(vector, bytes(32))), best_of(REPEATS, floor)


def _keystream(mode: modes.CTR | modes.GCM) -> None:
    zeros, buffer = bytes(_CHUNK), bytearray(_CHUNK)
    cipher: CipherContext = Cipher(algorithms.AES128(bytes(16)), mode).encryptor()
    for _ in range(_WORK // _CHUNK):
        cipher.update_into(zeros, buffer)


def _rate(operation: Callable[[], object]) -> float:
    return _WORK / best_of(REPEATS, operation).cpu_s
