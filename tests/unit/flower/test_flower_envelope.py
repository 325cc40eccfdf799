import numpy as np
import pytest
from flower_apps import instruction
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedmesh.errors import DecodeError
from fedmesh.flower import Envelope, fold, payload_bytes, unfold
from fedmesh.flower.identity import adopt


def rich_message() -> Message:
    adopt(2**63 + 5)
    content = RecordDict(
        {
            "z": ArrayRecord({"b": Array(np.arange(6, dtype=np.int8).reshape(2, 3)), "a": Array(np.float32([1.5]))}),
            "empty": ArrayRecord(),
            "config": ConfigRecord({"t": True, "n": -(2**62), "u": 2**63 + 1, "x": 0.1, "s": "é", "y": b"\0"}),
            "lists": ConfigRecord({"l": [1.0, 2.0], "none": []}),
            "metrics": MetricRecord({"count": 3, "loss": [0.25, 0.5]}),
            "a": ArrayRecord([np.zeros((0, 4)), np.array(7.0)]),
        }
    )
    return Message(content, 12, "query.anything", ttl=7.5, group_id="g")


def test_unfold_gives_back_what_was_folded() -> None:
    message = rich_message()
    twin = unfold(fold(message))
    assert twin.metadata == message.metadata
    assert list(twin.content) == list(message.content)
    assert twin.content == message.content
    for name, array in message.content["z"].items():
        assert np.array_equal(twin.content["z"][name].numpy(), array.numpy())


def test_an_error_survives() -> None:
    message = Message(Error(5, "gone"), reply_to=instruction(4))
    twin = unfold(fold(message))
    assert (twin.error, twin.has_content()) == (Error(5, "gone"), False)


def test_the_bytes_of_arrays_stay_out_of_the_metadata() -> None:
    message = instruction(4)
    message.content["arrays"] = ArrayRecord([np.zeros(100_000, np.float32)])
    envelope = fold(message)
    assert len(envelope.meta) < 500
    assert envelope.size == payload_bytes(message) == len(envelope.meta) + 400_128  # .npy has 128 bytes of header


def test_records_are_not_shared_with_the_original() -> None:
    message = instruction(4)
    twin = unfold(fold(message))
    twin.content["config"]["server-round"] = 99
    twin.content["arrays"]["model"].data = b""
    assert message.content["config"]["server-round"] == 3
    assert message.content["arrays"]["model"].numpy().shape == (15,)


def test_a_message_outlives_the_views_that_it_was_unfolded_from() -> None:
    envelope = fold(instruction(4, values=2.5))
    memory = bytearray(envelope.buffers[0])
    twin = unfold(Envelope(envelope.meta, (memoryview(memory),)))
    memory[:] = bytes(len(memory))
    assert twin.content["arrays"]["model"].numpy().tolist() == [2.5] * 15


@pytest.mark.parametrize("buffers", [(), (b"a", b"b")])
def test_a_wrong_number_of_buffers_is_refused(buffers: tuple[bytes, ...]) -> None:
    with pytest.raises(DecodeError, match="1 arrays came with"):
        unfold(Envelope(fold(instruction(4)).meta, buffers))


@pytest.mark.parametrize("meta", [b"\xff" * 40, b"", b"{}", b"\x12\x04\n\x02\n\0"])
def test_bytes_that_are_no_message_are_refused(meta: bytes) -> None:
    with pytest.raises(DecodeError):
        unfold(Envelope(meta, ()))


def test_mutated_metadata_is_a_message_or_a_decode_error() -> None:
    envelope = fold(rich_message())
    rng = np.random.default_rng(0)
    for _ in range(2000):
        mutated = bytearray(envelope.meta)
        for place in rng.integers(len(mutated), size=rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        try:
            message = unfold(Envelope(bytes(mutated), envelope.buffers))
        except DecodeError:
            continue
        assert isinstance(message, Message)
