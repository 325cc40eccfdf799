"""Frames between the engine and its workers: lists of byte strings, with file descriptors beside them, over a socket.

Both ends are processes of one run on one machine, started by the engine: the frames are not a format for the network,
and there is no pickle in them.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Sequence

__all__ = ["Pipe", "PipeClosedError"]

_HEAD = struct.Struct("<II")  # parts, descriptors
_MAX_DESCRIPTORS = 253  # Linux's SCM_MAX_FD


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
            self._socket.sendall(b"".join([head[sent:], *parts]))
        except OSError as error:
            raise PipeClosedError(str(error)) from error

    def receive(self) -> tuple[list[bytes], list[int]]:
        """The next frame's parts and descriptors (which the caller owns).

        Raises:
            PipeClosedError: the other end is closed; a frame cut short by that is dropped.
        """
        try:
            start, fds, _, _ = socket.recv_fds(self._socket, _HEAD.size, _MAX_DESCRIPTORS)
            for fd in fds:
                os.set_inheritable(fd, False)
            if not start:
                raise PipeClosedError("end of file")
            count, _ = _HEAD.unpack(start + self._exactly(_HEAD.size - len(start)))
            lengths = struct.unpack(f"<{count}Q", self._exactly(8 * count))
            return [self._exactly(length) for length in lengths], list(fds)
        except OSError as error:
            raise PipeClosedError(str(error)) from error

    def close(self) -> None:
        """Closes this end; idempotent."""
        with contextlib.suppress(OSError):  # the other end may have gone first
            self._socket.close()

    def _exactly(self, size: int) -> bytes:
        if not size:
            return b""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise PipeClosedError("end of file inside a frame")
            view = view[got:]
        return bytes(data)
