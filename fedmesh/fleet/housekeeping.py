"""What a coordinator sees to beside its rounds: fresh lists, its certificate, and whether the broker is there."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fedmesh.configuration.values import Address
from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.identity import Membership
from fedmesh.transport.lists import ListsPublisher

__all__ = ["Housekeeping"]

_LISTS_EVERY_S = 60.0
_LISTS_SOONEST_S = 5.0
_LOOK_EVERY_S = 1.0
_PATIENCE_S = 3.0
_WARN_BEFORE_S = 86_400.0


class Housekeeping:
    """Of one coordinator, on the event loop's thread.

    Args:
        membership: the coordinator's. address: of the issuer; None: what the identity's folder remembers.
        switchboard: whose roll follows the roster.
        publisher: tells devices of lists, and has who is revoked shunned. transport: whose broker is looked after.
        events: gets a Notice when something is wrong, and when it is right again.
        clock: Unix seconds.
    """

    def __init__(
        self,
        membership: Membership,
        address: Address | None,
        switchboard: Switchboard,
        publisher: ListsPublisher,
        transport: Any,
        *,
        events: EventSink = ignore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._membership, self._switchboard, self._clock = membership, switchboard, clock
        self._publisher = publisher
        self._link: Any = getattr(transport, "link", None)  # of MQTT; a broker in memory is always there
        self._events = events
        self._address = _address(address, membership)
        self._wanted = asyncio.Event()
        self._asked_at = 0.0
        self._announcing: asyncio.Future[None] | None = None
        self._told: dict[str, str] = {}
        self._lost_since: float | None = None

    async def begin(self) -> None:
        """Takes over the newest lists there are: who enrolled while we were away is no stranger."""
        await self._look_at_identity()
        self.take_over_roster()

    def look_now(self) -> None:
        """Asks for fresh lists before it is time: somebody came whom the roster does not know."""
        self._wanted.set()
        if self._address is None:
            self._say(
                "strangers",
                "somebody sends packets who is not on our roster, and no issuer is known that has a newer one: name it "
                "in [issuer] address",
            )

    def take_over_lists(self) -> None:
        """Newer lists count from now on, and devices are told of them."""
        self.take_over_roster()
        self._announcing = asyncio.ensure_future(self._announce())

    def take_over_roster(self) -> None:
        """The roll becomes the newest roster's, and who is revoked is shunned: to be called when lists have come."""
        membership = self._membership
        enrolled = {
            name
            for name, row in membership.roster.enrolled.items()
            if name != membership.name.id and not membership.revocations.revoked(row.serial)
        }
        with self._switchboard.roll() as roll:
            left_out = roll.admit(enrolled)
        self._publisher.shunning.apply()
        text = f"{', '.join(left_out)}: the number of this device is another's; enrol it under another name"
        self._say("numbers", text if left_out else "")

    async def serve(self) -> None:
        """For ever. Raises: ConfigError, TrustError: the broker will never do."""
        while True:
            self._look_at_broker()
            now = time.monotonic()
            due_s = _LISTS_SOONEST_S if self._wanted.is_set() else _LISTS_EVERY_S
            if self._asked_at == 0.0 or now - self._asked_at >= due_s:
                self._wanted.clear()
                if await self._look_at_identity():
                    self.take_over_lists()
            await asyncio.sleep(_LOOK_EVERY_S)

    def _look_at_broker(self) -> None:
        if self._link is None:
            return
        if self._link.refusal is not None:
            raise self._link.refusal
        now = time.monotonic()
        if self._link.is_connected:
            self._lost_since = None
            self._say("broker", "")
            return
        self._lost_since = now if self._lost_since is None else self._lost_since
        if now - self._lost_since >= _PATIENCE_S:
            why = self._link.trouble or "no answer yet"
            self._say("broker", f"the broker at {self._link.address} is not there ({why}): trying again and again")

    async def _look_at_identity(self) -> bool:
        """Renews what is due; returns whether there is anything new."""
        from fedmesh.transport.issuing import fetch_lists, renew

        self._asked_at = time.monotonic()
        membership, now, changed = self._membership, self._clock(), False
        if self._address is not None:
            try:
                if membership.due(now):
                    await renew(membership, self._address)
                    changed = True
                else:
                    changed = await fetch_lists(membership, self._address)
            except FedMeshError as error:
                self._say("issuer", f"fresh lists did not come from the issuer: {error}")
            else:
                self._say("issuer", "")
        left_s = membership.leaf.not_valid_after_utc.timestamp() - membership.now(self._clock())
        ending = f"our certificate ends in {max(0.0, left_s) / 3600:.0f} h: renew it (fedmesh enroll --renew)"
        self._say("certificate", ending if left_s < _WARN_BEFORE_S and membership.due(self._clock()) else "")
        return changed

    async def _announce(self) -> None:
        try:
            await self._publisher.publish()
        except FedMeshError as error:
            self._say("lists", f"devices were not told of the new lists: {error}")
        else:
            self._say("lists", "")

    def _say(self, about: str, text: str) -> None:
        """Tells a trouble once, and its end."""
        kind = about if text else ""  # what varies in the text is no news
        before = self._told.get(about, "")
        if kind and not before:
            self._events(Notice(text))
        elif before and not kind:
            self._events(Notice(f"{about}: all is well again"))
        self._told[about] = kind


def _address(configured: Address | None, membership: Membership) -> tuple[str, int] | None:
    if configured is not None:
        return configured.host, configured.port
    try:
        found = Address.parse(membership.address)
    except ConfigError:
        return None
    return found.host, found.port
