"""Many devices in one process: each with its own certificate, connection, signatures and keys; no training, no disk.

Each answers an instruction with an int8 update that it makes up, as real devices answer: in the clear, or inside a
session of secure aggregation, which is the real participant with a store of its own (put it on a RAM disk: what is
measured is the coordinator).
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict

from fedmesh.fleet.protocol import Answer, Here, Instruct, Offer, Reply, node_id_of
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.desk import Credential
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import adopt
from fedmesh.flower.node import Node
from fedmesh.flower.records import ranges_in
from fedmesh.flower.secure_mod import SecAggMod
from fedmesh.flower.terms import Terms
from fedmesh.identity import Membership
from fedmesh.identity.packets import Gate, Packet, Signet
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.secagg import Identity, Roster
from fedmesh.transport.mqtt import MqttTransport, options_from
from fedmesh.types import Layout

__all__ = ["TASK", "SwarmTold", "layout"]

TASK = "swarm"
_BITS, _PATIENCE_S = 8, 300.0
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class SwarmTold:
    """What the process is told, as JSON. identities: folder of all; stores: where secure aggregation remembers."""

    identities: str
    stores: str
    port: int
    first: int
    count: int
    parameters: int
    secure: bool

    def argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def layout(parameters: int) -> Layout:
    """Of a model of one array."""
    return Layout(("w",), ((parameters,),))


def client_app(told: SwarmTold, membership: Membership, roster: Roster) -> Callable[[Message, Context], Message]:
    """What a device answers with: noise, as an int8 update."""
    model, rng = layout(told.parameters), np.random.default_rng(told.first)

    def train(message: Message, _context: Context) -> Message:
        codec = DeltaCodec(model, _BITS, ranges_in(message.content))
        delta = rng.standard_normal(told.parameters, np.float32) * np.float32(0.01)
        packet = np.frombuffer(codec.encode_vector(delta, rng), np.uint8)
        content = RecordDict({"update": vector_record("delta", packet)})
        content["metrics"] = MetricRecord({"num-examples": 10})
        return Message(content, reply_to=message)

    if not told.secure:
        return train
    name = membership.name.id
    own = Identity(membership.signing_key())
    credential = Credential(name, own, roster, Path(told.stores) / f"{name}.sqlite")
    mod = SecAggMod(lambda _context: credential, Terms(TASK, model, bits=_BITS))
    return lambda message, context: mod(message, context, train)


class Device:
    """One."""

    def __init__(self, told: SwarmTold, membership: Membership, roster: Roster, key: bytes) -> None:
        self.membership = membership
        self._app = client_app(told, membership, roster)
        self._signet = Signet(membership.name, membership.signing_key())
        self._gate = Gate(membership.name, {"coordinator": key}.get)
        self._node: Node | None = None
        self.mail: MqttTransport | None = None

    async def connect(self, port: int) -> None:
        """Returns when the broker has taken it in."""
        options = options_from(self.membership, "localhost", port, coordinator=False)
        self.mail = await MqttTransport.open(options, wait_s=_PATIENCE_S)

    async def serve(self) -> None:
        """For ever."""
        assert self.mail is not None
        await self._say(Here("full", (TASK,), True, "", 0, "benchmark"))
        async for sender, data in self.mail.receive():
            packet = self._gate.open(data, sender=sender, now=time.time())
            if packet.kind == Offer.kind:
                run = Offer.read(packet.fields).run
                adopt(run)
                node = node_id_of(self.membership.name)
                self._node = Node(node, self._app, {"partition-id": 0, "num-partitions": 1}, remember=0, explain=True)
                await self._say(Answer(run, True, ""))
            elif packet.kind == Instruct.kind and self._node is not None:
                await self._answer(Instruct.read(packet.fields), packet)

    async def _answer(self, body: Instruct, packet: Packet) -> None:
        assert self._node is not None
        message = unfold(Envelope(bytes(packet.parts[0]), packet.parts[1:]))
        reply = fold(self._node.handle(message))
        await self._say(Reply(body.run, body.message, ""), [reply.meta, *reply.buffers])

    async def _say(self, body: Any, parts: Any = ()) -> None:
        assert self.mail is not None
        packet = self._signet.seal(
            "coordinator", body.kind, now=time.time(), expires_in_s=600, fields=body.plain(), parts=parts
        )
        await self.mail.post("coordinator", packet, expires_in_s=600)


async def swarm(told: SwarmTold) -> None:
    """Plays them until the process is ended."""
    folder = Path(told.identities)
    members = [Membership(folder / f"device-{number}") for number in range(told.first, told.first + told.count)]
    keys = members[0].roster.keys
    roster = Roster(keys)  # of all: it is the same for each
    devices = [Device(told, member, roster, keys["coordinator"]) for member in members]
    for start in range(0, len(devices), _AT_ONCE):
        await asyncio.gather(*(device.connect(told.port) for device in devices[start : start + _AT_ONCE]))
    print("ready", flush=True)
    gc.freeze()
    await asyncio.gather(*(device.serve() for device in devices))


if __name__ == "__main__":
    asyncio.run(swarm(SwarmTold(**json.loads(sys.argv[1]))))
