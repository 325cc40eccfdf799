"""Randomness that a privacy promise may rest on: an AES-256 counter-mode keystream, turned into uniforms and normals.

`SystemNoise` keys it from the operating system and is what a device uses. `KeyedNoise` keys it from a seed, so that a
simulation can be repeated: whoever knows the seed can subtract the noise, so it protects nobody and says so (`kind`).
Never a Mersenne Twister or PCG: their state follows from their output.

Normals are Box and Muller's (1958) in float64, from one 64-bit word for the radius and one for the angle. They reach
9.4 standard deviations; the law beyond (3e-21) is missing. Add them in float64 and round the sum to float32 once: that
grid is 2^29 times coarser than the sum's, so the holes in the low bits of floating-point noise (Mironov 2012) are
closed by the rounding. This is an argument about float64, not a proof as for a discrete Gaussian over the integers.
Repeatable on one kind of machine: the last bit of log and tan is the processor's.
"""

import os
from typing import Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.random import Generator
from numpy.typing import NDArray

from fedmesh.errors import ConfigError

__all__ = ["KeyedNoise", "NoiseSource", "Randomness", "SystemNoise", "draw_words"]

Float64 = NDArray[np.float64]

_BLOCK_WORDS = 1 << 15
"""Words turned into numbers at a time: 256 KiB stay in the second-level cache."""
_ZEROS = memoryview(bytes(8 * _BLOCK_WORDS))


class NoiseSource(Protocol):
    """Draws that an adversary cannot predict, or that are marked as predictable."""

    @property
    def kind(self) -> Literal["system", "keyed"]:
        """``system``: from the operating system, protects. ``keyed``: repeatable from a seed, for simulation only."""
        ...

    def normal(self, size: int) -> Float64:
        """`size` independent standard normals, float64 [size]: scale and add in float64, round once."""
        ...

    def uniform(self, size: int) -> Float64:
        """`size` independent uniforms in [0, 1), multiples of 2^-53, float64 [size]."""
        ...

    def words(self, size: int) -> NDArray[np.uint64]:
        """`size` independent 64-bit words, uint64 [size], the raw material of a discrete law."""
        ...


Randomness = NoiseSource | Generator
"""Where the discrete mechanisms draw from. A numpy generator protects nobody: it is accepted for tests only."""


def draw_words(rng: Randomness, size: int) -> NDArray[np.uint64]:
    """`size` independent 64-bit words, uint64 [size]."""
    if isinstance(rng, Generator):
        return rng.integers(0, 1 << 64, size, np.uint64)
    return rng.words(size)


class SystemNoise:
    """Keyed anew from the operating system at every call: nothing to steal, and a forked process repeats nothing."""

    kind: Literal["system"] = "system"

    def normal(self, size: int) -> Float64:
        """See `NoiseSource`."""
        return _normals(_keystream(os.urandom(32)), size)

    def uniform(self, size: int) -> Float64:
        """See `NoiseSource`."""
        return _uniforms(_keystream(os.urandom(32)), size)

    def words(self, size: int) -> NDArray[np.uint64]:
        """See `NoiseSource`."""
        return _words(_keystream(os.urandom(32)), size)

    def __repr__(self) -> str:
        return "SystemNoise()"


class KeyedNoise:
    """The same draws for the same seed and labels, independent draws for any other (HKDF-SHA256, RFC 5869).

    The labels must name everything that makes a release what it is. Two different releases under the same labels carry
    the same noise, and their difference carries none: pass `fedmesh.privacy.release_id` of what is released.

    Raises:
        ConfigError: the seed is negative.
    """

    kind: Literal["keyed"] = "keyed"

    def __init__(self, seed: int, *labels: str | int) -> None:
        if seed < 0:
            raise ConfigError(f"the seed of keyed noise is {seed}, it must not be negative")
        info = b"fedmesh/noise/1" + b"".join(map(_frame, labels))
        secret = seed.to_bytes(max(32, (seed.bit_length() + 7) // 8), "little")
        self._stream = _keystream(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret))

    def normal(self, size: int) -> Float64:
        """See `NoiseSource`."""
        return _normals(self._stream, size)

    def uniform(self, size: int) -> Float64:
        """See `NoiseSource`."""
        return _uniforms(self._stream, size)

    def words(self, size: int) -> NDArray[np.uint64]:
        """See `NoiseSource`."""
        return _words(self._stream, size)

    def __repr__(self) -> str:
        return "KeyedNoise(...)"


def _frame(label: str | int) -> bytes:
    """Type, length, bytes: no two sequences of labels give the same info."""
    kind, text = (b"s", label) if isinstance(label, str) else (b"i", str(int(label)))
    data = text.encode()
    return kind + len(data).to_bytes(8, "little") + data


def _keystream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()


def _words(stream: CipherContext, count: int) -> NDArray[np.uint64]:
    """The next `count` words of the keystream, uint64 [count]."""
    out = np.empty(count, "<u8")
    for start in range(0, count, _BLOCK_WORDS):
        block = out[start : start + _BLOCK_WORDS]
        stream.update_into(_ZEROS[: block.nbytes], block.view(np.uint8).data)
    return out.astype(np.uint64, copy=False)


def _uniforms(stream: CipherContext, size: int) -> Float64:
    out = np.empty(size)
    for start in range(0, size, _BLOCK_WORDS):
        block = out[start : start + _BLOCK_WORDS]
        np.multiply(_words(stream, len(block)) >> np.uint64(11), 2.0**-53, out=block)
    return out


def _normals(stream: CipherContext, size: int) -> Float64:
    """Box and Muller's pairs; cosine and sine by the half-angle's tangent t, four times as fast as numpy's own.

    cos = (1 - t^2) / (1 + t^2), sin = 2 t / (1 + t^2), both to 2e-16.
    """
    out = np.empty(size + size % 2)
    for start in range(0, len(out), _BLOCK_WORDS):
        block = out[start : start + _BLOCK_WORDS]
        half = len(block) // 2
        words = _words(stream, len(block)).astype(np.float64)
        radius, t = words[:half], words[half:]
        radius += 1.0  # in [1, 2^64]: the logarithm is finite, and small uniforms keep all their bits
        radius *= 2.0**-64
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        t *= np.pi * 2.0**-64
        t -= np.pi / 2
        np.tan(t, out=t)
        square = t * t
        radius /= 1.0 + square
        np.subtract(1.0, square, out=square)
        np.multiply(radius, square, out=block[:half])
        t *= 2.0
        np.multiply(radius, t, out=block[half:])
    return out[:size]
