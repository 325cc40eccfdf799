"""Masks: a 32-byte seed expanded by AES-128 in counter mode, added to a vector mod 2^(8 * itemsize).

With ``digest = SHA-256("fedmesh/secagg/mask/1" | seed)`` the stream is AES-128 under ``digest[:16]`` of the blocks
``digest[16:28] | counter``, the counter four bytes, big endian, from 2; element i is the stream's bytes from
``i * itemsize`` on, little endian. A seed serves one vector.
``add_mask(add_mask(v, s), s, subtract=True) == v``, and masks may be added in any order.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, islice, pairwise, repeat
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import DTypeLike, NDArray

from fedmesh.errors import SecAggError

__all__ = ["MAX_VECTOR_BYTES", "SEED_BYTES", "add_mask", "add_masks", "expand"]

SEED_BYTES = 32
MAX_VECTOR_BYTES = (1 << 36) - 64  # SP 800-38D 5.2.1.1 allows 2^36 - 32 in one message; then the counter wraps
_LABEL = b"fedmesh/secagg/mask/1"
_CHUNK_BYTES = 1 << 17  # the chunk, its stream and the zeros share the second-level cache
_THREAD_CHUNK_BYTES = 1 << 19  # threads pass the interpreter's lock between chunks: with small ones they only wait
_ZEROS = bytes(_THREAD_CHUNK_BYTES)
_STREAMS = 128  # ciphers held at a time: a cohort of the largest size in one pass

Unsigned = NDArray[np.unsignedinteger[Any]]
_Mode = Callable[[bytes, bytes], CipherContext]
_Seed = tuple[np.ufunc, bytes]


def add_mask(accumulator: Unsigned, seed: bytes, *, subtract: bool = False) -> None:
    """Adds the mask of `seed` (32 bytes) to `accumulator` in place, or subtracts it; see `add_masks`."""
    add_masks(accumulator, () if subtract else (seed,), (seed,) if subtract else ())


def add_masks(accumulator: Unsigned, plus: Iterable[bytes], minus: Iterable[bytes] = (), *, threads: int = 1) -> None:
    """Adds the masks of the seeds in `plus` to `accumulator` and subtracts those in `minus`, in place.

    Memory beside the accumulator is constant, one more vector for each further thread: the seeds may be an iterator,
    and no mask is ever whole.

    Args:
        accumulator: unsigned [d], writable; sums wrap at the width of its type.
        plus: seeds of 32 bytes.
        minus: likewise.
        threads: at most; a short vector is not worth more than one.

    Raises:
        SecAggError: ``malformed``: a seed is not 32 bytes (what came before it may have been added); ``input``: the
            vector is longer than a stream.
        ValueError: `accumulator` is no writable vector of unsigned integers.
    """
    _require_vector(accumulator)
    seeds: Iterator[_Seed] = chain(zip(repeat(np.add), plus), zip(repeat(np.subtract), minus))
    if threads > 1 and accumulator.nbytes >= 2 * _THREAD_CHUNK_BYTES:
        _apply_across(accumulator, list(seeds), threads)
    else:
        _apply(accumulator, seeds, _CHUNK_BYTES)


def expand(seed: bytes, count: int, dtype: DTypeLike) -> Unsigned:
    """The mask itself: `count` elements of the unsigned type `dtype`."""
    mask: Unsigned = np.zeros(count, dtype)
    add_mask(mask, seed)
    return mask


def _apply_across(accumulator: Unsigned, seeds: list[_Seed], threads: int) -> None:
    """Each thread adds to a vector of its own. The seeds are made before: making them would hold the others up."""
    vectors = [accumulator, *(np.zeros_like(accumulator) for _ in range(threads - 1))]
    with ThreadPoolExecutor(threads) as pool:
        shares = [seeds[number::threads] for number in range(threads)]
        list(pool.map(_apply, vectors, shares, repeat(_THREAD_CHUNK_BYTES)))  # list: raises what a thread raised
    for vector in vectors[1:]:
        accumulator += vector


def _apply(accumulator: Unsigned, seeds: Iterable[_Seed], chunk_bytes: int) -> None:
    """Chunk by chunk, many streams over one chunk before the next: the accumulator seldom crosses memory."""
    buffer = bytearray(chunk_bytes)
    words = np.frombuffer(buffer, accumulator.dtype.newbyteorder("<"))
    waiting = iter(seeds)
    while streams := [(operation, _stream(seed)) for operation, seed in islice(waiting, _STREAMS)]:
        for start in range(0, len(accumulator), len(words)):
            part = accumulator[start : start + len(words)]
            zeros = memoryview(_ZEROS)[: part.nbytes]
            mask = words[: len(part)]
            for operation, stream in streams:
                stream.update_into(zeros, buffer)
                operation(part, mask, out=part)


def _require_vector(accumulator: Unsigned) -> None:
    if accumulator.dtype.kind != "u" or accumulator.ndim != 1:
        raise ValueError(f"masks go onto a vector of unsigned integers, not {accumulator.dtype} {accumulator.shape}")
    if accumulator.nbytes > MAX_VECTOR_BYTES:
        raise SecAggError(f"a vector of {accumulator.nbytes} bytes: one mask has {MAX_VECTOR_BYTES}", code="input")


def _stream(seed: bytes) -> CipherContext:
    if len(seed) != SEED_BYTES:
        raise SecAggError(f"the seed of a mask has {SEED_BYTES} bytes, not {len(seed)}", code="malformed")
    digest = hashlib.sha256(_LABEL + seed).digest()
    return _fastest_mode()(digest[:16], digest[16:28])


def _counter_mode(key: bytes, nonce: bytes) -> CipherContext:
    """The definition of the stream: counter mode, the block counter in the last four bytes, from 2."""
    return Cipher(AES128(key), CTR(nonce + b"\0\0\0\2")).encryptor()


def _galois_mode(key: bytes, nonce: bytes) -> CipherContext:
    """The same stream: GCM encrypts in counter mode from block 2 on (SP 800-38D 7.1); its tag is never asked for."""
    return Cipher(AES128(key), GCM(nonce)).encryptor()


@cache
def _fastest_mode() -> _Mode:
    """Measured once: OpenSSL has GCM in AVX-512 and counter mode not, so on such servers GCM is 1.7 times as fast.

    Elsewhere GCM pays for a tag that nobody asks for. Both give the same stream: a wrong measurement costs only time.
    """
    return min((_counter_mode, _galois_mode), key=_seconds_per_chunk)


def _seconds_per_chunk(mode: _Mode) -> float:
    buffer = bytearray(_CHUNK_BYTES)
    stream = mode(bytes(16), bytes(12))
    zeros = bytes(_CHUNK_BYTES)
    moments = []
    for _ in range(5):  # the first warms up
        stream.update_into(zeros, buffer)
        moments.append(time.perf_counter())
    return min(after - before for before, after in pairwise(moments))
