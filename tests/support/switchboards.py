"""A switchboard whose mail a test holds in its hands, and devices that are keys and nothing more."""

import asyncio
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmesh.errors import DeliveryError, PeerError
from fedmesh.events import Event
from fedmesh.fleet.protocol import Answer, Here, Instruct, Offer, Reply
from fedmesh.fleet.roll import Roll
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.fleet.transport_fleet import TransportFleet
from fedmesh.flower.envelope import fold
from fedmesh.identity import Name
from fedmesh.identity.packets import Gate, Packet, Signet

MESH, RUN = "home", 5
OFFER = Offer(RUN, "small", "ab" * 32, 2, "vision")


class Receipt:
    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def delivered(self) -> None:
        if error := await asyncio.shield(self.outcome):
            raise DeliveryError(error, peer="somebody")


class HandMail:
    """What is posted lies in `posted` until the test looks; `full` refuses it."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes, Receipt, float | None]] = []
        self.full = False

    async def post(self, to: str, data: bytes, *, expires_in_s: float | None = None) -> Receipt:
        if self.full:
            raise PeerError("full")
        self.posted.append((to, data, Receipt(), expires_in_s))
        return self.posted[-1][2]

    def receive(self) -> Any:
        raise NotImplementedError


class Board:
    """A switchboard for the coordinator ``c`` and devices ``a`` and ``b``, which have accepted run `RUN`."""

    def __init__(self, *, max_reply_bytes: int = 10_000, deadline_s: float = 60.0) -> None:
        self.keys = {name: Ed25519PrivateKey.generate() for name in ("a", "b", "c")}
        self.public = {name: key.public_key().public_bytes_raw() for name, key in self.keys.items()}
        self.mail, self.told = HandMail(), list[Event]()
        name = Name(MESH, "c")
        roll = Roll(MESH)
        roll.admit(["a", "b"])
        self.gate = Gate(name, {key: value for key, value in self.public.items() if key != "c"}.get)
        self.switchboard = Switchboard(
            self.mail, Signet(name, self.keys["c"]), self.gate, roll, events=self.told.append
        )
        self.fleet = TransportFleet(
            RUN,
            self.switchboard,
            lambda _name, _here: (OFFER, (b"task", b"")),
            deadline_s=deadline_s,
            max_reply_bytes=max_reply_bytes,
            events=self.told.append,
        )

    def seal(self, name: str, body: Any, parts: Any = (), **changes: Any) -> bytes:
        options = {"to": "c", "kind": body.kind, "now": time.time(), "expires_in_s": 60.0, "fields": body.plain()}
        return Signet(Name(MESH, name), self.keys[name]).seal(**{**options, **changes}, parts=parts)

    def hear(self, name: str, body: Any, parts: Any = ()) -> None:
        self.switchboard.take(name, self.seal(name, body, parts))

    async def meet(self) -> None:
        """Both devices say that they are there, and accept."""
        for name in ("a", "b"):
            self.hear(name, Here("full", ("vision",), True, "", 0, "test"))
        self.switchboard.tick()
        await self.settle()
        for name in ("a", "b"):
            self.hear(name, Answer(RUN, True, ""))
        self.mail.posted.clear()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def read(self, index: int = -1) -> Packet:
        """What was posted, opened as the device would."""
        to, data, _, _ = self.mail.posted[index]
        return Gate(Name(MESH, to), self.public.get).open(data, sender="c", now=time.time())

    def node(self, name: str) -> int:
        with self.switchboard.roll() as roll:
            found = roll.node_of(name)
        assert found is not None
        return found

    def reply(self, message: Any) -> tuple[Reply, list[Any]]:
        """A good reply, and its parts."""
        envelope = fold(message)
        return Reply(RUN, message.metadata.reply_to_message_id, ""), [envelope.meta, *envelope.buffers]


__all__ = ["MESH", "OFFER", "RUN", "Board", "HandMail", "Instruct"]
