"""Frames between a process and its workers: lists of byte strings, with file descriptors beside them, over a socket.

Both ends are processes of one machine, one started by the other: the frames are not a format for the network, and there
is no pickle in them. Give a bound where the other end works on what came from others.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

__all__ = ["Pipe", "PipeClosedError"]

_HEAD = struct.Struct("<II")  # parts, descriptors
_BUFFER_BYTES = 1 << 20  # as far as the system allows: a worker need not wait until the engine has read its reply
_MAX_BUFFERS = 1000  # of one sendmsg; Linux's IOV_MAX is 1024
_MAX_DESCRIPTORS = 253  # Linux's SCM_MAX_FD
_MAX_PARTS = 1 << 16


class PipeClosedError(Exception):
    """The process at the other end is gone."""


class Pipe:
    """One end of a connected Unix socket. `send` and `receive` block."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    @staticmethod
    def pair() -> "tuple[Pipe, Pipe]":
        """Two connected ends; neither is inherited by a program that is executed."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (left, right):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        return Pipe(left), Pipe(right)

    @classmethod
    def from_fd(cls, fd: int) -> "Pipe":
        """The end behind a descriptor, which the pipe owns from now on."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor, for a selector; -1 when closed."""
        return self._socket.fileno()

    def send(self, parts: Sequence[bytes | memoryview], fds: Sequence[int] = ()) -> None:
        """Sends one frame; `fds` are duplicated for the receiver.

        Raises:
            PipeClosedError: nobody is at the other end.
        """
        lengths = [len(part) for part in parts]
        head = _HEAD.pack(len(parts), len(fds)) + struct.pack(f"<{len(parts)}Q", *lengths)
        try:
            # The descriptors ride on the frame's first byte.
            sent = socket.send_fds(self._socket, [head], list(fds)) if fds else self._socket.send(head)
            self._send_all([head[sent:], *parts])
        except OSError as error:
            raise PipeClosedError(str(error)) from error

    def receive(self, max_bytes: int | None = None) -> tuple[list[bytes], list[int]]:
        """The next frame's parts and descriptors (which the caller owns).

        Args:
            max_bytes: of all parts together; None: the other end is believed.

        Raises:
            PipeClosedError: the other end is closed, or sends more; a frame cut short by that is dropped.
        """
        try:
            start, fds, _, _ = socket.recv_fds(self._socket, _HEAD.size, _MAX_DESCRIPTORS)
            for fd in fds:
                os.set_inheritable(fd, False)
            if not start:
                raise PipeClosedError("end of file")
            count, _ = _HEAD.unpack(start + self._exactly(_HEAD.size - len(start)))
            if max_bytes is not None and count > _MAX_PARTS:
                raise PipeClosedError(f"a frame of {count} parts came")
            lengths = struct.unpack(f"<{count}Q", self._exactly(8 * count))
            if max_bytes is not None and sum(lengths) > max_bytes:
                raise PipeClosedError(f"a frame of {sum(lengths)} bytes came, at most {max_bytes} are read")
            return [self._exactly(length) for length in lengths], list(fds)
        except OSError as error:
            raise PipeClosedError(str(error)) from error

    def close(self) -> None:
        """Closes this end; idempotent."""
        with contextlib.suppress(OSError):  # the other end may have gone first
            self._socket.close()

    def _send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        sent = self._socket.sendmsg(buffers) if len(buffers) <= _MAX_BUFFERS else 0
        if sent < sum(len(buffer) for buffer in buffers):  # too many for one call, or a signal came in between
            self._socket.sendall(memoryview(b"".join(buffers))[sent:])

    def _exactly(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = self._socket.recv(size, socket.MSG_WAITALL)
            if not chunk:
                raise PipeClosedError("end of file inside a frame")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)  # of one chunk, that chunk itself
