"""Messages on a stream: four bytes of length (big-endian), then that many bytes. Bounded before anything is read."""

import asyncio

from fedmesh.errors import DecodeError, PeerError

__all__ = ["read_frame", "told", "write_frame"]

_PREFIX_BYTES = 4
_LARGEST = (1 << 32) - 1


async def read_frame(reader: asyncio.StreamReader, *, max_bytes: int) -> bytes:
    """The next message, of at most `max_bytes`.

    Raises:
        DecodeError: a longer one is announced; nothing of it was read, and the stream is of no more use.
        PeerError: the stream ended before the message did.
    """
    try:
        length = int.from_bytes(await reader.readexactly(_PREFIX_BYTES), "big")
        if length > max_bytes:
            raise DecodeError(f"a frame of {length} bytes is announced, the limit is {max_bytes}")
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise PeerError("the connection ended where a message was expected") from error
    except OSError as error:  # ssl.SSLError is one
        raise PeerError(f"the connection broke: {told(error)}") from error


def told(error: OSError) -> str:
    """What `error` says; asyncio's own say nothing but their names."""
    return error.strerror or str(error) or type(error).__name__


async def write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends `data` as one message; returns when the buffer has room again. Raises: PeerError: the connection broke."""
    if len(data) > _LARGEST:
        raise ValueError(f"a frame holds less than 4 GiB, not {len(data)} bytes")
    try:
        writer.write(len(data).to_bytes(_PREFIX_BYTES, "big"))
        writer.write(data)
        await writer.drain()
    except OSError as error:
        raise PeerError(f"the connection broke: {told(error)}") from error
