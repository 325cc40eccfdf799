"""A Flower message as bytes: small metadata, and the arrays' bytes beside it.

Array bytes stay out of the metadata so that a fleet can place them where it likes (shared memory, a blob store) and so
that one array sent to many nodes is held once. ``unfold(fold(m))`` equals `m` in everything but identity: no record is
shared between the two, and array bytes are immutable.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import serde
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError as ProtobufError

from fedmesh.errors import DecodeError

__all__ = ["Buffer", "Envelope", "fold", "payload_bytes", "unfold"]

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Envelope:
    """A folded message.

    Attributes:
        meta: protobuf of the message, its arrays without their data.
        buffers: the arrays' data, in the order in which the arrays appear in the message.
    """

    meta: bytes
    buffers: tuple[Buffer, ...]

    @property
    def size(self) -> int:
        """Payload bytes: what a transport has to carry."""
        return len(self.meta) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


def fold(message: Message) -> Envelope:
    """The message as bytes. The buffers are the message's own immutable bytes: nothing large is copied."""
    proto = ProtoMessage(metadata=metadata_to_proto(message.metadata))
    buffers: list[Buffer] = []
    if message.has_error():
        proto.error.CopyFrom(error_to_proto(message.error))
    if message.has_content():
        proto.content.SetInParent()
        for key, record in message.content.items():
            _fold_record(proto.content.items.add(key=key), record, buffers)
    return Envelope(proto.SerializeToString(), tuple(buffers))


def unfold(envelope: Envelope) -> Message:
    """The message of an envelope; buffers that are views are copied, so that the message outlives them.

    Raises:
        DecodeError: the metadata is not a message, or the buffers are not those of its arrays.
    """
    try:
        message = serde.message_from_proto(ProtoMessage.FromString(envelope.meta))
    # What Flower raises for a malformed message is not documented: everything it can raise means the same here.
    except (ProtobufError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DecodeError(f"{len(envelope.meta)} bytes are not a Flower message: {error}") from error
    arrays = list(_arrays(message))
    if len(arrays) != len(envelope.buffers):
        raise DecodeError(f"a message with {len(arrays)} arrays came with {len(envelope.buffers)} buffers")
    for array, buffer in zip(arrays, envelope.buffers, strict=True):
        array.data = bytes(buffer)
    return message


def payload_bytes(message: Message) -> int:
    """Bytes that a transport would carry for this message, measured."""
    return fold(message).size


def _fold_record(item: ProtoRecordDict.Item, record: Any, buffers: list[Buffer]) -> None:
    if isinstance(record, ArrayRecord):
        item.array_record.SetInParent()
        for name, array in record.items():
            entry = item.array_record.items.add(key=name)
            entry.value.dtype, entry.value.stype = array.dtype, array.stype
            entry.value.shape.extend(array.shape)
            buffers.append(bytes(array.data))  # no copy when it is bytes already
    elif isinstance(record, MetricRecord):
        item.metric_record.CopyFrom(serde.metric_record_to_proto(record))
    elif isinstance(record, ConfigRecord):
        item.config_record.CopyFrom(serde.config_record_to_proto(record))
    else:
        raise TypeError(f"a message holds array, metric and config records, not {type(record).__name__}")


def _arrays(message: Message) -> Iterator[Array]:
    content = message.content if message.has_content() else RecordDict()
    for record in content.values():
        if isinstance(record, ArrayRecord):
            yield from record.values()
