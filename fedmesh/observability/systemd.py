"""What systemd wants to hear of a service of ``Type=notify``: sd_notify(3), and a watchdog that is not fed in vain.

Without NOTIFY_SOCKET, outside of systemd, all of it does nothing.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Self

from fedmesh.observability.health import Probe

__all__ = ["Notifier", "Watchdog"]


class Notifier:
    """Tells the service manager what this process is about.

    Args:
        address: of its datagram socket: a path, or ``@`` and a name (abstract). None: nobody listens.
    """

    def __init__(self, address: str | None) -> None:
        self._address = None if address is None else ("\0" + address[1:] if address.startswith("@") else address)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """As systemd says; the variable is taken away, so that no child process speaks in this one's name."""
        address = environment.pop("NOTIFY_SOCKET", None)
        return cls(address if address is not None and address[:1] in ("/", "@") else None)

    def ready(self, status: str = "") -> None:
        """The service is up: until then, units that come after it wait."""
        self._send("READY=1", *_status(status))

    def stopping(self, status: str = "") -> None:
        """It is about to end."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send(*_status(text))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # a manager that is being re-executed, or a full queue: the next turn tells it again


class Watchdog:
    """Feeds the watchdog of systemd only where a probe finds nothing wrong: ask it at every turn of the loop.

    Args:
        notifier: to whom.
        probe: a real one: an inference, a turn of the loop. Its fault is shown as the status, and the dog goes hungry.
        interval_s: between two feedings; systemd kills after twice that (`from_environment`). None: there is no dog.
        clock: monotonic seconds.
    """

    def __init__(
        self, notifier: Notifier, probe: Probe, interval_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._notifier, self._probe, self.interval_s, self._clock = notifier, probe, interval_s, clock
        self._next = clock()
        self._fault: str | None = None

    @classmethod
    def from_environment(
        cls, notifier: Notifier, probe: Probe, environment: MutableMapping[str, str] = os.environ
    ) -> Self:
        """As systemd says (WatchdogSec=): half of its limit; the variables are taken away, as by `Notifier`."""
        limit, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = process in ("", str(os.getpid()))
        limited = ours and limit.isascii() and limit.isdecimal() and int(limit) > 0
        return cls(notifier, probe, int(limit) / 2e6 if limited else None)

    def turn(self) -> str | None:
        """Probes and feeds, if it is time; returns what is wrong, if it was asked and something is."""
        if self.interval_s is None or self._clock() < self._next:
            return None
        self._next = self._clock() + self.interval_s
        fault = self._probe()
        if fault is None:
            self._notifier.alive()
        if fault != self._fault:
            self._notifier.status(f"unwell: {fault}" if fault is not None else "well again")
            self._fault = fault
        return fault


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())[:200]}",) if text else ()
