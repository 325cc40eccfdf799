"""Announcements: a few small values of a coordinator that every device reads, which the broker keeps for latecomers.

A hint to whoever reads it: a broker can withhold, repeat or make one up, so an announcement says where to look, and
what is found there has to prove itself.
"""

import asyncio
from typing import Literal

from fedmesh.errors import ConfigError, DeliveryError, PeerError
from fedmesh.types import PeerId

__all__ = ["ANNOUNCEMENTS", "MAX_ANNOUNCEMENT_BYTES", "Announcer", "Hearer", "published"]

ANNOUNCEMENTS = ("model", "lists")
"""What is announced: the newest model's manifest, the newest roster and revocation list."""
MAX_ANNOUNCEMENT_BYTES = 4096
_MOST = 256
"""Announcements that are remembered; a fleet has a handful."""


class Announcer:
    """A coordinator's own: each is said on every connection, for a broker that was killed may have forgotten it."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._unsaid: dict[str, None] = {}
        self._waiting: dict[str, list[asyncio.Future[str]]] = {}

    def put(self, what: str, data: bytes) -> "asyncio.Future[str]":
        """Takes over a value. Gives what becomes of it: empty when the broker has it, or why it has not.

        Raises:
            ConfigError: nothing of this name is announced. PeerError: it is too long.
        """
        if what not in ANNOUNCEMENTS:
            raise ConfigError(f"{what!r:.80} is not announced: {' and '.join(ANNOUNCEMENTS)} are")
        if len(data) > MAX_ANNOUNCEMENT_BYTES:
            raise PeerError(
                f"an announcement of {len(data)} bytes, the limit is {MAX_ANNOUNCEMENT_BYTES}: announce where it is"
            )
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._values[what] = data
        self._unsaid[what] = None
        self._waiting.setdefault(what, []).append(outcome)
        return outcome

    def next(self) -> tuple[str, bytes] | None:
        """The next value to publish; None: all is said."""
        for what in self._unsaid:
            del self._unsaid[what]
            return what, self._values[what]
        return None

    def again(self) -> None:
        """There is a new connection: all is to be said anew."""
        self._unsaid = dict.fromkeys(self._values)

    def settled(self, what: str, data: bytes, error: str = "") -> None:
        """The broker has `data`, or has refused it; about a value that was replaced meanwhile that says nothing."""
        if self._values.get(what) == data:
            for outcome in self._waiting.pop(what, []):
                if not outcome.done():
                    outcome.set_result(error)

    def close(self) -> None:
        """Nothing more is published."""
        for what, data in self._values.items():
            self.settled(what, data, "the transport was closed")


async def published(what: str, outcome: "asyncio.Future[str]") -> None:
    """Returns when the broker has it. Raises: DeliveryError: it never will."""
    if error := await asyncio.shield(outcome):
        raise DeliveryError(f"the announcement {what!r} was not published: {error}", peer="everybody")


class Hearer:
    """What coordinators announce.

    Attributes:
        announced: (coordinator, what) -> the newest value.
    """

    def __init__(self) -> None:
        self.announced: dict[tuple[PeerId, str], bytes] = {}

    def heard(self, peer: PeerId, what: str, data: bytes) -> Literal["new", "known", "refused"]:
        """Takes a value in, or an empty one: it was withdrawn. Says what it is."""
        key = peer, what
        known = key in self.announced
        full = data and not known and len(self.announced) >= _MOST
        if what not in ANNOUNCEMENTS or len(data) > MAX_ANNOUNCEMENT_BYTES or full:
            return "refused"
        if self.announced.get(key, b"") == data:
            return "known"
        if data:
            self.announced[key] = data
        else:
            del self.announced[key]
        return "new"

    def forget(self, peer: PeerId) -> None:
        """`peer` announces nothing any more."""
        self.announced = {key: data for key, data in self.announced.items() if key[0] != peer}
