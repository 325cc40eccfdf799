"""A small federation under secure aggregation, in one process: identities, devices that go missing, what they sent."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flower_apps import LAYOUT, delta_app
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmesh.client.identities import AGGREGATOR, device_name
from fedmesh.coordinator import SecureAggregation, SecureSettings
from fedmesh.flower import partition_of
from fedmesh.flower.desk import Credential
from fedmesh.flower.secure import AHEAD, CURRENT, QUERY, answer_in, attach_answer
from fedmesh.flower.secure_mod import SecAggMod
from fedmesh.flower.terms import Terms
from fedmesh.quantization.codec import relative_ranges
from fedmesh.secagg import Identity, Roster
from fedmesh_strategies.fedavg import FedAvg

TASK = "small"
Trouble = Callable[[Message, int], "Message | None"]
"""(a message, the partition that it came to) -> an answer in place of the device's own, None for that; or it raises."""


def step_of(message: Message, name: str = CURRENT) -> str:
    """What the message asks for; empty if it asks nothing under this name."""
    return str(message.content.config_records.get(name, ConfigRecord()).get("step", ""))


@dataclass
class Federation:
    """Identities of `devices` devices and a server; stores under `folder`.

    Attributes:
        trouble: see `Trouble`.
        seen: (round, partition, step, step for the next round) of every message that reached a device, in order.
        replies: what the devices answered.
    """

    folder: Path
    devices: int
    weight_cap: int = 1
    reported: tuple[str, ...] = ()
    trouble: Trouble = lambda message, partition: None
    seen: list[tuple[int, int, str, str]] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [AGGREGATOR, *map(device_name, range(self.devices))]
        self.identities = {
            name: Identity.from_private(bytes([7]) * 28 + index.to_bytes(4, "big")) for index, name in enumerate(names)
        }
        self.roster = Roster({name: identity.public for name, identity in self.identities.items()})

    def credential(self, context: Context) -> Credential:
        name = device_name(int(context.node_config["partition-id"]))
        return Credential(name, self.identities[name], self.roster, self.folder / f"{name}.sqlite")

    def app(self, inner: Callable[[Message, Context], Message] | None = None) -> Callable[[Message, Context], Message]:
        """The client app: `inner`, or `delta_app`, behind the mod."""
        terms = Terms(TASK, LAYOUT, bits=8, weight_cap=self.weight_cap, reported=self.reported)
        mod, inner = SecAggMod(self.credential, terms), inner or training_app(delta_app())

        def answer(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            number = int(message.content["config"]["server-round"])
            self.seen.append((number, partition, step_of(message), step_of(message, AHEAD)))
            reply = self.trouble(message, partition) or mod(message, context, inner)
            self.replies.append(reply)
            return reply

        return answer

    def client_app(self) -> ClientApp:
        """The same for Flower's own simulation."""
        app, answer = ClientApp(), self.app()
        app.train()(answer)
        app.query(QUERY.partition(".")[2])(answer)
        return app

    def secured(self, strategy: Any, **options: Any) -> SecureAggregation:
        """The server's side."""
        attempts, names = options.pop("attempts_of", None), options.pop("names", names_of)
        identity = self.identities[AGGREGATOR]
        return SecureAggregation(
            strategy,
            identity=identity,
            roster=self.roster,
            settings=self.settings(**options),
            names=names,
            attempts=attempts,
        )

    def settings(self, **options: Any) -> SecureSettings:
        given = {"weight_cap": self.weight_cap, "reported": self.reported, "seed": 5, **options}
        return SecureSettings(TASK, 8, **given)


def names_of(nodes: Iterable[int]) -> dict[int, str]:
    return {node: device_name(partition_of(node)) for node in nodes}


def training_app(inner: ClientApp) -> Callable[[Message, Context], Message]:
    """`inner`, with the metrics that the sum carries."""

    def train(message: Message, context: Context) -> Message:
        reply = inner(message, context)
        partition = int(context.node_config["partition-id"])
        reply.content["metrics"] = MetricRecord(
            {"num-examples": partition + 1, "examples": float(partition + 1), "loss": partition / 8}
        )
        return reply

    return train


def fedavg(**options: Any) -> FedAvg:
    return FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5), **options)


def loses(*lost: tuple[int, str], rounds: Iterable[int] | None = None) -> Trouble:
    """Devices (partition, step) that fail at a step and at everything after it in that round."""
    gone = set[tuple[int, int]]()

    def trouble(message: Message, partition: int) -> Message | None:
        number = int(message.content["config"]["server-round"])
        hit = (partition, step_of(message)) in lost and (rounds is None or number in rounds)
        if hit or (number, partition) in gone:
            gone.add((number, partition))
            raise ConnectionError("lost")
        return None

    return trouble


def altered(reply: Message, change: Callable[[bytes], bytes]) -> Message:
    """A reply with another message of its session in it."""
    content = RecordDict(dict(reply.content.items()))
    attach_answer(content, change(answer_in(reply.content, max_bytes=1 << 20) or b""))
    twin = Message(content, reply_to=reply)
    twin.metadata.__dict__.update(reply.metadata.__dict__)
    return twin


def flipped(data: bytes) -> bytes:
    """The last byte is another."""
    return data[:-1] + bytes([np.uint8(data[-1]) ^ 1])
