"""The message schema of secure aggregation over Flower: the records that both sides write and read, and nothing more.

Down, in the content of a message of the type `QUERY`, or of an ordinary ``train`` message at the step ``train``::

    config       ConfigRecord   server-round, and at the step train whatever the strategy says
    arrays       ArrayRecord    at the step train only: the model
    secagg       ConfigRecord   step; header at advertise (a SessionHeader's bytes), message after it (the aggregator's)
    secagg-next  ConfigRecord   the same for the next round's session, whose keys are exchanged on the way

Up, in the content of the reply::

    secagg       ArrayRecord    message: uint8 [n], the participant's; at hello a ConfigRecord with the device's name
    secagg-next  ArrayRecord    likewise for the next round's session; left out when the device did not join it

Nothing else leaves: no packet, no count, no metric. The participant's and the aggregator's messages are opaque here.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedmesh.errors import DecodeError
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.types import Float32

__all__ = [
    "AHEAD",
    "CURRENT",
    "HELLO",
    "MAX_ORDER_BYTES",
    "QUERY",
    "STEPS",
    "Order",
    "answer_in",
    "asked",
    "attach",
    "attach_answer",
    "hello",
    "hello_answer",
    "model_hash",
    "name_in",
    "order_in",
    "scale_hash",
]

QUERY = "query.secagg"
"""Message type of every step but ``train``: what ``ClientApp.query("secagg")`` answers."""
HELLO = "hello"
"""Not a step of the protocol: the device is asked for its name."""
STEPS = ("advertise", "share", "train", "sign", "unmask")
CURRENT, AHEAD = "secagg", "secagg-next"
"""Names of the records: of this round's session, and of the next round's."""
MAX_ORDER_BYTES = 1 << 20
"""Most that a header or an aggregator's message may take: those of 1,024 devices with long names take a third of it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a device is asked to do for one session.

    Attributes:
        step: `HELLO` or one of `STEPS`.
        header: the session's header, at the step ``advertise`` only.
        message: the aggregator's message to this device, at the steps after it.
    """

    step: str
    header: bytes = b""
    message: bytes = b""


def asked(number: int, current: Order | None = None, ahead: Order | None = None) -> RecordDict:
    """The content of a `QUERY` message of round `number`."""
    content = RecordDict({"config": ConfigRecord({"server-round": number})})
    for order, name in ((current, CURRENT), (ahead, AHEAD)):
        if order is not None:
            attach(content, order, name)
    return content


def hello() -> RecordDict:
    """The content of a `QUERY` message that asks a device for its name."""
    return asked(0, Order(HELLO))


def attach(content: RecordDict, order: Order, name: str = CURRENT) -> None:
    """Puts an order into a message's content; `name` is `CURRENT` or `AHEAD`."""
    record = ConfigRecord({"step": order.step})
    if order.step == "advertise":
        record["header"] = order.header
    elif order.step != HELLO:
        record["message"] = order.message
    content[name] = record


def order_in(content: RecordDict, name: str = CURRENT, *, steps: Iterable[str] = (HELLO, *STEPS)) -> Order | None:
    """The order in a message's content, None if there is none under `name`.

    Raises:
        DecodeError: it is malformed, too large, or its step is none of `steps`.
    """
    if name not in content:
        return None
    record = content[name]
    if not isinstance(record, ConfigRecord):
        raise DecodeError(f"{name!r} came as {type(record).__name__}; wanted a ConfigRecord")
    step = record.get("step")
    if not isinstance(step, str) or step not in tuple(steps):
        raise DecodeError(f"{name!r} came with the step {str(step)[:40]!r}; wanted one of {', '.join(steps)}")
    wanted = {"advertise": ("header",), HELLO: ()}.get(step, ("message",))
    if sorted(record) != sorted((*wanted, "step")):
        raise DecodeError(f"{name!r} at the step {step} holds {len(record)} entries; wanted {('step', *wanted)}")
    return Order(step, **{key: _bounded(record[key], name) for key in wanted})


def attach_answer(content: RecordDict, message: bytes, name: str = CURRENT) -> None:
    """Puts a participant's message into a reply's content."""
    content[name] = vector_record("message", np.frombuffer(message, np.uint8))


def answer_in(content: RecordDict, name: str = CURRENT, *, max_bytes: int) -> bytes | None:
    """The participant's message in a reply's content, None if there is none under `name`.

    Raises:
        DecodeError: the record is malformed, or holds more than `max_bytes`.
    """
    if name not in content:
        return None
    record = content[name]
    if not isinstance(record, ArrayRecord):
        raise DecodeError(f"{name!r} came as {type(record).__name__}; wanted an ArrayRecord")
    return vector(record, "message", dtype="uint8", max_bytes=max_bytes).tobytes()


def hello_answer(name: str) -> RecordDict:
    """The content of the reply to `hello`."""
    return RecordDict({CURRENT: ConfigRecord({"name": name})})


def name_in(content: RecordDict) -> str:
    """The device's name in the reply to `hello`; the roster says whether there is such a device.

    Raises:
        DecodeError: there is none, or it is longer than 200 characters.
    """
    record = content.config_records.get(CURRENT)
    name = None if record is None else record.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise DecodeError("a device was asked for its name and gave none of 1 to 200 characters")
    return name


def model_hash(weights: Float32, backbone: bytes = b"") -> bytes:
    """What a header says of the model: SHA-256 over the weights [P] as little-endian float32.

    `backbone`: where lite devices take part, the digest of theirs, which follows the weights.
    """
    digest = hashlib.sha256(_float32(weights))
    digest.update(backbone)
    return digest.digest()


def scale_hash(ranges: Iterable[float] | Float32) -> bytes:
    """What a header says of the scales: SHA-256 over the delta ranges [tensors] as little-endian float32."""
    return hashlib.sha256(_float32(np.asarray(ranges, dtype="<f4"))).digest()


def _float32(values: Any) -> memoryview:
    return np.ascontiguousarray(values, dtype="<f4").data


def _bounded(value: object, name: str) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_ORDER_BYTES:
        size = f"{len(value)} bytes" if isinstance(value, bytes) else f"a {type(value).__name__}"
        raise DecodeError(f"{name!r} came with {size}; wanted at most {MAX_ORDER_BYTES} bytes")
    return value
