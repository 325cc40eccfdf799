"""A small server for tests of the device side: one session a round over a grid, devices lost where one likes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmesh.client.identities import AGGREGATOR, create_identities, device_name, open_identity
from fedmesh.flower import FleetGrid
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.fleet import Fleet
from fedmesh.flower.identity import node_id_of, partition_of
from fedmesh.flower.node import ClientCallable
from fedmesh.flower.secure import QUERY, STEPS, Order, answer_in, asked, model_hash, scale_hash
from fedmesh.flower.terms import Terms
from fedmesh.secagg import Aggregator, SessionHeader, SumResult
from fedmesh.types import Float32

MAX_BYTES = 1 << 24

Tamper = Callable[[str, int, RecordDict], None]
"""(step, device, content): may change what is sent to a device."""


def leave(step: str, device: int, content: RecordDict) -> None:
    """Changes nothing."""


def overheard(app: ClientCallable, raised: list[Exception]) -> ClientCallable:
    """`app`, which also says what it raises: a grid shows the error replies that our nodes make of it."""

    def answer(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception as error:
            raised.append(error)
            raise

    return answer


@dataclass
class SecureServer:
    """Drives sessions over `fleet`, whose devices' identities are made in `folder`.

    Attributes:
        tamper: may change what is sent.
        lose: step -> devices that are not reached from that step on.
        sent, replies: everything that went down and came up. refusals: step -> device -> text of its error reply.
    """

    fleet: Fleet
    folder: Path
    terms: Terms
    ranges: Sequence[float]
    tamper: Tamper = leave
    lose: Mapping[str, Collection[int]] = field(default_factory=dict)
    refusals: dict[str, dict[int, str]] = field(default_factory=dict)
    replies: list[Message] = field(default_factory=list)
    sent: list[tuple[int, str, RecordDict]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = create_identities(self.folder, len(self.fleet.node_ids))
        self.grid = FleetGrid(self.fleet, run_id=1)
        self.identity = open_identity(self.folder, AGGREGATOR)

    def header(
        self,
        number: int,
        weights: Float32 | None,
        *,
        attempt: int = 1,
        devices: Iterable[int] | None = None,
        **changes: object,
    ) -> SessionHeader:
        """The header of a session among `devices`, all by default; without weights the model is left open."""
        members = [partition_of(node) for node in self.fleet.node_ids] if devices is None else list(devices)
        cohort = tuple(sorted(map(device_name, members)))
        threshold = SessionHeader.threshold_for(len(cohort))
        values = {
            "task": self.terms.task,
            "round": number,
            "attempt": attempt,
            "cohort": cohort,
            "threshold": threshold,
            "min_cohort": threshold,
            "ring_bits": 40,
            "length": self.terms.length,
            "weight_cap": self.terms.weight_cap,
            "layout_hash": self.terms.layout.digest,
            "model_hash": None if weights is None else model_hash(weights),
            "scale_hash": None if weights is None else scale_hash(self.ranges),
            "privacy": self.terms.privacy,
        }
        return SessionHeader(**{**values, **changes})

    def aggregator(self, header: SessionHeader) -> Aggregator:
        """Its aggregator."""
        return Aggregator(header, self.identity, self.roster)

    def round(self, number: int, weights: Float32, **header: object) -> SumResult:
        """One round of one session from its first step to its last. Raises: SecAggError when it cannot go on."""
        session = self.aggregator(self.header(number, weights, **header))
        data = session.header.to_bytes()
        orders = {name: Order("advertise", data) for name in session.header.cohort}
        for step in STEPS:
            orders = self.step(number, step, session, orders, weights)
        assert session.result is not None
        return session.result

    def step(
        self, number: int, step: str, session: Aggregator, orders: Mapping[str, Order], weights: Float32
    ) -> dict[str, Order]:
        """One step; the next one's orders."""
        contents = {name: self.content(number, step, order, weights) for name, order in orders.items()}
        waits_for, out = session.step, list[tuple[str, bytes]]()
        for name, content in self.exchange(step, contents).items():
            answer = answer_in(content, max_bytes=MAX_BYTES)
            assert answer is not None
            out = session.handle(name, answer)
        if session.step == waits_for:
            out = session.advance()
        following = STEPS[STEPS.index(step) + 1] if step != "unmask" else step
        return {name: Order(following, message=message) for name, message in out}

    def content(self, number: int, step: str, order: Order, weights: Float32) -> RecordDict:
        """What a device is sent."""
        content = asked(number, order)
        if step == "train":
            content["arrays"] = vector_record("model", weights)
            content["config"] = ConfigRecord({"server-round": number, "delta-ranges": list(self.ranges)})
        return content

    def exchange(self, step: str, contents: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Sends to all but the lost, and returns what comes back by name; errors are kept in `refusals`."""
        messages = []
        for name, content in contents.items():
            device = int(name.rpartition("-")[2])
            if any(device in self.lose.get(earlier, ()) for earlier in STEPS[: STEPS.index(step) + 1]):
                continue
            self.tamper(step, device, content)
            self.sent.append((device, step, content))
            messages.append(self.message(device, step, content))
        found = {}
        refused = self.refusals[step] = {}
        for reply in sorted(self.grid.send_and_receive(messages, timeout=120), key=lambda r: r.metadata.src_node_id):
            self.replies.append(reply)
            device = partition_of(reply.metadata.src_node_id)
            if reply.has_error():
                refused[device] = reply.error.reason
            else:
                found[device_name(device)] = reply.content
        return found

    def message(self, device: int, step: str, content: RecordDict) -> Message:
        """A content for a device."""
        return Message(content, node_id_of(device), "train" if step == "train" else QUERY)
