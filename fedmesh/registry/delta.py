"""The difference between two files of int8 weights: where bytes changed (gaps), by how much (values), under zstd.

Of 5 % of weights moved by a step or two, it takes the entropy and little more, and is undone in milliseconds. Nothing
is known of ONNX: two exports of one architecture differ in the bytes of their weights and scales alone, and stand
in line. Files that do not give a delta longer than the file, and then nobody takes it.

``decode(base, encode(base, new)) == new`` for all bytes. Decoding takes no more memory than
a few times `max_bytes`, whatever the delta says of itself; the caller compares the SHA-256.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import RegistryError

__all__ = ["decode", "encode"]

_MAGIC = b"fmd1"
_HEADER = struct.Struct("<4sQQQII")  # magic, lengths of base and result, changes, lengths of the first two streams
_LEVEL = 19
_WINDOW_LOG = 23
_ESCAPE = 255
_MOST = 1 << 32


def encode(base: bytes, new: bytes) -> bytes:
    """What turns `base` into `new`."""
    old, target = np.frombuffer(base, np.uint8), np.frombuffer(new, np.uint8)
    common = min(len(old), len(target))
    places = np.flatnonzero(old[:common] != target[:common])
    values = target[places] - old[places]  # modulo 256
    gaps, values_z = _compressed(_gaps(places)), _compressed(values.tobytes())
    header = _HEADER.pack(_MAGIC, len(base), len(new), len(places), len(gaps), len(values_z))
    return header + gaps + values_z + _compressed(new[common:])


def decode(base: bytes, delta: bytes, *, max_bytes: int) -> bytes:
    """What `encode` was given, if `base` is the same; a caller compares its hash.

    Raises:
        RegistryError: ``delta``: it is malformed, against another base, or gives more than `max_bytes`.
    """
    if len(delta) < _HEADER.size:
        raise _refused("it is too short")
    magic, of, length, changes, gaps_end, values_end = _HEADER.unpack_from(delta)
    if magic != _MAGIC or of != len(base):
        raise _refused("it is not one, or against another file")
    common = min(of, length)
    if length > max_bytes or changes > common:
        raise _refused(f"it would give {length} bytes with {changes} changes, {max_bytes} are expected")
    body = memoryview(delta)[_HEADER.size :]
    if gaps_end + values_end > len(body):
        raise _refused("it was cut off")
    gaps = _expanded(body[:gaps_end], changes + common // _ESCAPE + 1)
    values = _expanded(body[gaps_end : gaps_end + values_end], changes)
    tail = _expanded(body[gaps_end + values_end :], length - common)
    if len(values) != changes or len(tail) != length - common:
        raise _refused(f"{len(values)} values came for {changes} changes, {len(tail)} bytes for the end")
    result = np.frombuffer(base, np.uint8)[:common].copy()
    places = _places(np.frombuffer(gaps, np.uint8))
    if len(places) != changes or (changes and places[-1] >= common):
        raise _refused("its changes are not where it says")
    result[places] += np.frombuffer(values, np.uint8)
    return result.tobytes() + tail


def _gaps(places: NDArray[np.int64]) -> bytes:
    """Bytes between changes; 255 stands for 255 and more follows. One number a change, ascending."""
    gaps = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(gaps // _ESCAPE + 1) - 1
    stream = np.full(int(ends[-1]) + 1 if len(ends) else 0, _ESCAPE, np.uint8)
    stream[ends] = gaps % _ESCAPE
    return stream.tobytes()


def _places(stream: NDArray[np.uint8]) -> NDArray[np.int64]:
    ends = np.flatnonzero(stream != _ESCAPE)
    if len(stream) and (not len(ends) or ends[-1] != len(stream) - 1):
        raise _refused("its last gap does not end")
    return np.cumsum(stream, dtype=np.int64)[ends] + np.arange(len(ends))


def _compressed(data: bytes) -> bytes:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL if len(data) < 1 << 20 else 9, window_log=_WINDOW_LOG, write_content_size=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _expanded(data: Any, max_bytes: int) -> bytes:
    """At most `max_bytes`: read as a stream, for what a frame says of its own length is not to be believed."""
    import zstandard

    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        with decompressor.stream_reader(bytes(data), read_across_frames=False) as reader:
            result = reader.read(max_bytes + 1)
            ended = len(result) <= max_bytes and reader.read(1) == b""
    except (zstandard.ZstdError, MemoryError) as error:
        raise _refused("it cannot be expanded") from error
    if not ended:
        raise _refused(f"it expands to more than the {max_bytes} bytes that it may")
    return bytes(result)


def _refused(why: str) -> RegistryError:
    return RegistryError(f"the delta is refused: {why}; the whole file is fetched instead", code="delta")
