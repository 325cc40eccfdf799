"""An event loop reads and writes the socket of paho: no thread wakes another, and no `select` bounds descriptors."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

from fedmesh.transport.mqtt_client import TamedClient
from fedmesh.transport.mqtt_packets import Publication

__all__ = ["Driver"]

_ACK_S = 0.002
"""So long an acknowledgement waits for a packet that it can go with."""
_READS = 32
"""Reads of a socket before others have their turn."""


class Driver:
    """Drives one connection of a client after another.

    Args:
        client: nobody else drives it. Its callbacks are called on the event loop, in the midst of paho's work.
        failed: told what paho raised; the connection is over then.
        arrived: told of each publication, when paho is done with what it was in the midst of.
        every_s: how often paho looks whether the connection is alive.
    """

    def __init__(
        self,
        client: TamedClient,
        *,
        failed: Callable[[Exception], None],
        arrived: Callable[[Publication], None],
        every_s: float,
    ) -> None:
        self._client, self._failed, self._arrived, self._every_s = client, failed, arrived, every_s
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._descriptor: int | None = None  # while the event loop has it
        self._acks_due: asyncio.TimerHandle | None = None
        self._stepping = self._waits_to_write = False
        client.on_socket_register_write = self._wants_to_write
        client.on_socket_close = self._closes_socket
        client.acks_wait = self._acks_wait

    async def connection(self, dial: Callable[[], None], closing: asyncio.Event) -> None:
        """One, from dialling, on a thread, to its end; none if `closing` is set when it was made.

        Raises:
            OSError: what `dial` raises, and whatever else.
        """
        self._client.release()
        dialling = self._loop.run_in_executor(None, dial)
        try:
            await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialling.add_done_callback(lambda _: self._client.release())
            raise
        opened = self._client.socket()
        if closing.is_set() or opened is None:
            return
        self._ended.clear()
        self._descriptor = opened.fileno()
        self._loop.add_reader(self._descriptor, self._read)
        self._write()
        try:
            while not self._ended.is_set():
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._ended.wait()
                except TimeoutError:
                    self._drive(self._client.loop_misc)
        finally:
            self._client.release()

    def _read(self) -> None:
        """There is something to read; what TLS holds of it already wakes nobody."""
        for _ in range(_READS):
            opened = self._client.socket()
            if not self._drive(self._client.loop_read) or not isinstance(opened, ssl.SSLSocket) or not opened.pending():
                break
        else:
            self._loop.call_soon(self._read)
        self._hand_over()

    def _hand_over(self) -> None:
        arrived = self._client.publications
        try:
            while arrived:
                self._arrived(arrived.popleft())
        finally:
            if arrived:  # whoever was told of one has failed: the others are not his
                self._loop.call_soon(self._hand_over)

    def _write(self) -> None:
        if not self._drive(self._client.loop_write) or self._descriptor is None:
            return
        if self._client.want_write() == self._waits_to_write:
            return
        self._waits_to_write = not self._waits_to_write
        if self._waits_to_write:
            self._loop.add_writer(self._descriptor, self._write)
        else:
            self._loop.remove_writer(self._descriptor)

    def _drive(self, step: Callable[[], MQTTErrorCode]) -> bool:
        """A step of paho's; the connection ends where it fails. Whether there still is one."""
        if self._descriptor is None:
            return False
        self._stepping = True
        try:
            went_well = step() == MQTTErrorCode.MQTT_ERR_SUCCESS
        except Exception as error:  # noqa: BLE001 - no broker's bytes, whatever paho makes of them, end the event loop
            self._failed(error)
            went_well = False
        self._stepping = False
        if not went_well or self._client.socket() is None:
            self._ended.set()
            self._let_go()
            return False
        return True

    def _wants_to_write(self, _client: Client, _data: Any, _opened: Any) -> None:
        if self._descriptor is None:
            return  # it is written as soon as there is a connection
        if self._stepping:
            self._loop.call_soon(self._write)
        else:
            self._write()

    def _acks_wait(self, wait: bool) -> None:
        if self._acks_due is not None:
            self._acks_due.cancel()
        self._acks_due = self._loop.call_later(_ACK_S, self._client.send_acks) if wait else None

    def _closes_socket(self, _client: Client, _data: Any, _opened: Any) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop.remove_writer(self._descriptor)
            self._descriptor, self._waits_to_write = None, False
