"""The packets of MQTT v5 of which there are many, without I/O: publications and their acknowledgements.

A stream is cut into packets (`Cutter`), a publication is read and written, an acknowledgement is read. All other
packets are paho's business. What a publication's properties say is skipped: nothing here depends on it.
Source: MQTT Version 5.0 (OASIS 2019), sections 2.1, 3.3 and 3.4.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fedmesh.errors import DecodeError

__all__ = ["Cutter", "Publication", "acknowledgement_in", "publication_in", "publish_packet"]

_PUBLISH_QOS_1 = b"\x32"
_LENGTH_BYTES = 4
"""Longest variable byte integer (1.5.5)."""
_Bytes = bytes | bytearray | memoryview


class Publication(NamedTuple):
    """What came with a PUBLISH. `topic` is empty where it is not UTF-8; `mid` is 0 for one that nobody acknowledges."""

    topic: str
    mid: int
    payload: bytes
    qos: int


class Cutter:
    """Cuts a stream into packets; holds at most one that is not whole, of `most` bytes.

    Of no use any more when `cut` has raised, or was not iterated to its end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()
        self._wanted = 0

    def cut(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """The packets that are whole now: first byte, and what follows the length.

        Raises:
            DecodeError: a packet is longer than agreed, or its length is none. What came before it was given out.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return
        stream = memoryview(self._held or data)
        at, self._wanted = 0, 0
        while at < len(stream):
            length, start = _number(stream, at + 1)
            if start == 0:
                break  # the length itself is not whole
            if length > self._most:
                raise DecodeError(f"the broker announced a packet of {length} bytes, {self._most} were agreed")
            if start + length > len(stream):
                self._wanted = start + length - at
                break
            yield stream[at], stream[start : start + length]
            at = start + length
        self._held = bytearray(stream[at:])


def publication_in(command: int, body: memoryview) -> Publication:
    """What a PUBLISH of quality of service 0 or 1 says (3.3).

    Raises:
        DecodeError: it is cut short, or of another quality of service.
    """
    qos = command >> 1 & 3
    if qos > 1:
        raise DecodeError(f"a publication of quality of service {qos} arrived: it was never asked for")
    topic_end = 2 + int.from_bytes(body[:2], "big")
    at = topic_end + 2 * qos
    length, start = _number(body, at)
    if start == 0 or start + length > len(body):
        raise DecodeError(f"a publication of {len(body)} bytes is cut short")
    try:
        topic = str(body[2:topic_end], "utf-8")
    except UnicodeDecodeError:
        topic = ""
    return Publication(topic, int.from_bytes(body[topic_end:at], "big"), bytes(body[start + length :]), qos)


def acknowledgement_in(body: memoryview) -> tuple[int, int]:
    """Identifier and reason code of a PUBACK (3.4). Raises: DecodeError: it is cut short."""
    if len(body) < 2:
        raise DecodeError(f"an acknowledgement of {len(body)} bytes is cut short")
    return int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0


def publish_packet(topic: bytes, mid: int, properties: bytes, payload: bytes) -> bytes:
    """A PUBLISH of quality of service 1. `properties`: packed, with their length."""
    length = 4 + len(topic) + len(properties) + len(payload)
    head = _PUBLISH_QOS_1 + _number_bytes(length) + len(topic).to_bytes(2, "big")
    return b"".join((head, topic, mid.to_bytes(2, "big"), properties, payload))


def _number(data: _Bytes, at: int) -> tuple[int, int]:
    """The variable byte integer at `at`, and where it ends; 0: it is not whole. Raises: DecodeError: it is none."""
    number = 0
    for place in range(_LENGTH_BYTES):
        if at + place >= len(data):
            return 0, 0
        byte = data[at + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise DecodeError("the broker sent a length of more than four bytes")


def _number_bytes(number: int) -> bytes:
    encoded = bytearray()
    while True:
        number, low = number >> 7, number & 127
        encoded.append(low | 128 if number else low)
        if not number:
            return bytes(encoded)
