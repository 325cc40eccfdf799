"""Small operations on Flower's records that Flower does not offer."""

from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import serde
from flwr.proto.recorddict_pb2 import ArrayRecord as ProtoArrayRecord
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError as ProtobufError

from fedmesh.errors import DecodeError

__all__ = [
    "copy_records",
    "decode_arrays",
    "decode_values",
    "encode_arrays",
    "encode_values",
    "excerpt",
    "new_message_id",
    "number_in",
    "ranges_in",
    "round_of",
]

MAX_EXCERPT = 500


def new_message_id() -> str:
    """A fresh id. Flower's own is a hash over the content, which costs a pass over every array."""
    return str(uuid4())


def copy_records(records: RecordDict) -> RecordDict:
    """A copy that later changes of records, or of lists in them, do not reach; array bytes are immutable and shared."""
    copied = records.copy()
    for name, record in records.items():
        twin = record.copy()
        if isinstance(twin, MetricRecord | ConfigRecord):
            for key, value in list(twin.items()):
                if isinstance(value, list):
                    twin[key] = list(value)  # type: ignore[assignment]  # the same element type as before
        copied[name] = twin
    return copied


def round_of(message: Message) -> int:
    """The round an instruction belongs to: ``server-round`` in one of its config records, 0 if it says none."""
    if message.has_content():
        for record in message.content.config_records.values():
            value = record.get("server-round")
            if isinstance(value, int):
                return value
    return 0


def number_in(content: RecordDict) -> int:
    """``server-round`` in the ``config`` of an instruction. Raises: DecodeError: no whole number from 0."""
    number = _config_of(content).get("server-round")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise DecodeError(f"a message says server-round {str(number)[:40]} in its config; wanted a number, 0 or above")
    return number


def ranges_in(content: RecordDict) -> list[float]:
    """``delta-ranges`` in the ``config`` of a train message. Raises: DecodeError: no list of floats."""
    ranges = _config_of(content).get("delta-ranges")
    floats = [value for value in ranges if isinstance(value, float)] if isinstance(ranges, list) else None
    if floats is None or floats != ranges:
        raise DecodeError("a train message for the integer codec needs delta-ranges, a list of numbers, in its config")
    return floats


def excerpt(text: str | None) -> str:
    """What a device says, fit to be journaled and shown: at most 500 characters, none of which a terminal obeys."""
    kept = (text or "")[:MAX_EXCERPT]
    return "".join(character if character.isprintable() else " " for character in kept)


def encode_arrays(arrays: ArrayRecord) -> bytes:
    """The record as deterministic bytes: names, order, types and data."""
    return bytes(serde.array_record_to_proto(arrays).SerializeToString(deterministic=True))


def decode_arrays(data: bytes) -> ArrayRecord:
    """The inverse of `encode_arrays`. Raises: DecodeError when the bytes are not an array record."""
    try:
        return serde.array_record_from_proto(ProtoArrayRecord.FromString(data))
    except (ProtobufError, TypeError, ValueError) as error:
        raise DecodeError(f"{len(data)} bytes are not a Flower array record: {error}") from error


def encode_values(record: ConfigRecord | MetricRecord) -> bytes:
    """A record of plain values as deterministic bytes."""
    return bytes(serde.recorddict_to_proto(RecordDict({"values": record})).SerializeToString(deterministic=True))


def decode_values(data: bytes) -> ConfigRecord | MetricRecord:
    """The inverse of `encode_values`. Raises: DecodeError when the bytes are not such a record."""
    try:
        record = serde.recorddict_from_proto(ProtoRecordDict.FromString(data))["values"]
    except (ProtobufError, TypeError, ValueError, KeyError) as error:
        raise DecodeError(f"{len(data)} bytes are not a record of values: {error}") from error
    if isinstance(record, ArrayRecord):
        raise DecodeError("a record of arrays came where plain values were wanted")
    return record


def _config_of(content: RecordDict) -> ConfigRecord:
    return content.config_records.get("config", ConfigRecord())
