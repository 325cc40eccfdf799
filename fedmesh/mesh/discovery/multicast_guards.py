"""What keeps a liar on the link from making zeroconf itself too busy or too large: bounds that it does not have.

zeroconf compares each address of a host with each, and remembers every name that it means to ask for again.
"""

from collections.abc import Callable, Iterable

from zeroconf import IPVersion, RecordUpdate, RecordUpdateListener, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo

__all__ = ["MAX_HOSTS", "MAX_RECORDS", "Info", "Meter", "is_crowded"]

MAX_HOSTS = 64
"""Addresses of one host that are looked at."""
MAX_RECORDS = 1_000
"""New records, of whatever service, after which zeroconf's memory is emptied: its own bound is 10,000 of 9 KB each, and
none for the names that a browser plans to ask for again. What matters is asked for anew."""


def is_crowded(zc: Zeroconf, records: Iterable[object]) -> bool:
    """Whether a host that they name has more addresses than one has: zeroconf compares each with each."""
    servers = {getattr(record, "server_key", None) for record in records}
    return any(len(zc.cache.cache.get(server, ())) > MAX_HOSTS for server in servers if server)


class Info(AsyncServiceInfo):
    """A service that is being asked for; who answers with a thousand addresses is not listened to any more."""

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """As zeroconf calls it."""
        is_full = len(self.ip_addresses_by_version(IPVersion.All)) >= MAX_HOSTS
        if not is_full and not is_crowded(zc, (update.new for update in records)):
            super().async_update_records(zc, now, records)


class Meter(RecordUpdateListener):
    """Counts new records, and calls when there were more than are to be kept."""

    def __init__(self, full: Callable[[], None]) -> None:
        super().__init__()
        self._full, self._heard = full, 0

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """As zeroconf calls it."""
        del zc, now
        self._heard += sum(update.old is None for update in records)

    def async_update_records_complete(self) -> None:
        """As zeroconf calls it."""
        if self._heard > MAX_RECORDS:
            self._heard = 0
            self._full()
