"""Who is here: `Swim` over a channel, called when it is due, and what follows from what it says."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, MemberChanged, Notice, ignore
from fedmesh.identity import Membership
from fedmesh.mesh.discovery import Address, Here, address_in
from fedmesh.mesh.membership import DurableIncarnations, Member, Outgoing, Settings, Signer, State, Swim
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.keys import RosterKeys
from fedmesh.peer.post import Post
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId

__all__ = ["INCARNATION", "Members"]

INCARNATION = "incarnation"
_WORTH_S = 5.0
"""A probe that waits for a connection for so long says nothing any more; what it carried is told again."""
REMOVED = "removed"


class Members:
    """Of one node.

    Args:
        channel: for this alone. folder: where the incarnation is kept.
        changed: told a name and what is known of it; None: it is not on the roster any more.
        heard: when anything last came from a member, on the event loop's clock.
        events: told when somebody is held to be something else.

    Attributes:
        swim: the core. keys: whom it believes.
        states: how many members are what, this one included; replaced, never changed: a scrape reads it.
    """

    def __init__(
        self,
        membership: Membership,
        channel: Channel,
        *,
        folder: Path,
        changed: Callable[[PeerId, Member | None], None],
        heard: Callable[[PeerId], float],
        settings: Settings | None = None,
        events: EventSink = ignore,
    ) -> None:
        self.keys = RosterKeys(membership)
        self.swim = Swim(
            Signer(membership.name, membership.signing_key()),
            key_of=self.keys,
            incarnations=DurableIncarnations(folder / INCARNATION),
            rng=random.SystemRandom(),
            settings=settings,
            changed=self._changed,
            heard=heard,
        )
        self.states: Mapping[str, int] = {}
        self._name, self._channel, self._told, self._events = membership.name.id, channel, changed, events
        self._loop = asyncio.get_running_loop()
        self._post = Post(channel, expires_in_s=_WORTH_S)
        self._alarm = Alarm(self._tick)
        self._said: tuple[tuple[str, ...], str] = ((), "")
        self._known: dict[str, State] = {}
        self._here: Here | None = None
        self._trouble = ""

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused or lost, by reason."""
        return {**self.swim.counts, **self._post.counts}

    @property
    def all(self) -> tuple[Member, ...]:
        """Everybody that is known, this one included, by name."""
        return self.swim.members

    @property
    def here(self) -> Here:
        """Who is alive as far as we know, without us, for who looks for members."""
        if self._here is None:
            live = [one for one in self.all if one.state <= State.SUSPECT and one.name != self._name]
            self._here = Here(
                frozenset(one.name for one in live),
                frozenset(each for one in live for each in _addresses(one)),
                frozenset(one.name for one in self.all if one.state is State.DEAD),
            )
        return self._here

    def start(self, seeds: Mapping[PeerId, Sequence[str]], addresses: Sequence[str], model: str) -> None:
        """Joins. Raises: ConfigError: the addresses cannot be announced, or the incarnation cannot be kept."""
        self._said = tuple(addresses), model
        self._carry(self.swim.start(self._loop.time(), seeds=seeds, addresses=addresses, model=model))
        self._count()

    def met(self, peer: PeerId) -> None:
        """There is a link with `peer`."""
        self._carry(self.swim.met(peer, self._loop.time()))

    def roster_changed(self) -> None:
        """A newer list counts from now on."""
        self._carry(self.swim.roster_changed(self._loop.time()))

    def say(self, addresses: Sequence[str], model: str) -> None:
        """What others are told of us, if it is something else than before."""
        said = tuple(addresses), model
        if said == self._said:
            return
        try:
            self._carry(self.swim.update(self._loop.time(), addresses=addresses, model=model))
            self._said, self._trouble = said, ""
        except ConfigError as error:  # the disk is full: they go on with what they were told
            if self._trouble != str(error):
                self._events(Notice(str(error)))
            self._trouble = str(error)

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        async for peer, data in self._channel.receive():
            self._carry(self.swim.received(peer, data, self._loop.time()))

    async def leave(self, *, within_s: float) -> None:
        """Says goodbye."""
        outgoing = self.swim.leave(self._loop.time())
        self._alarm.cancel()
        await self._post.last([(item.to, item.data) for item in outgoing], within_s=within_s)

    def _tick(self) -> None:
        self._carry(self.swim.tick(self._loop.time()))

    def _carry(self, outgoing: list[Outgoing]) -> None:
        for item in outgoing:
            self._post.send(item.to, item.data)
        self._alarm.set(self.swim.due)

    def _changed(self, name: PeerId, member: Member | None) -> None:
        self._here = None
        self._told(name, member)
        before = self._known.get(name)
        if member is None:
            self._known.pop(name, None)
            self._events(MemberChanged(name, REMOVED, 0))
        else:
            self._known[name] = member.state
            if member.state is not before:
                self._events(MemberChanged(name, member.state.name.lower(), member.incarnation))
        self._count()

    def _count(self) -> None:
        self.states = Counter(["alive", *(state.name.lower() for state in self._known.values())])


def _addresses(member: Member) -> list[Address]:
    """Those of its addresses that are any."""
    found = []
    for text in member.addresses:
        try:
            found.append(address_in(text))
        except ConfigError:
            continue
    return found
