"""The records of secure aggregation over Flower: what is written is read again, and nothing else is."""

import hashlib

import numpy as np
import pytest
import training
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.errors import DecodeError, FedMeshError
from fedmesh.flower import secure
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.envelope import fold, unfold
from fedmesh.flower.secure import AHEAD, CURRENT, Order


def test_the_steps_are_the_protocols() -> None:
    assert secure.STEPS == ("advertise", "share", "train", "sign", "unmask")
    assert secure.QUERY == "query.secagg"


@pytest.mark.parametrize("name", [CURRENT, AHEAD])
@pytest.mark.parametrize(
    "order", [Order("advertise", b"header"), *(Order(step, message=b"m") for step in secure.STEPS[1:]), Order("hello")]
)
def test_an_order_is_read_as_it_was_written(order: Order, name: str) -> None:
    content = RecordDict()
    secure.attach(content, order, name)
    assert secure.order_in(content, name) == order
    assert secure.order_in(content, AHEAD if name == CURRENT else CURRENT) is None


def test_a_query_says_its_round() -> None:
    content = secure.asked(7, Order("sign", message=b"a"), Order("share", message=b"b"))
    assert sorted(content) == ["config", CURRENT, AHEAD]
    assert dict(content["config"]) == {"server-round": 7}
    assert dict(content[CURRENT]) == {"step": "sign", "message": b"a"}
    assert dict(content[AHEAD]) == {"step": "share", "message": b"b"}


def test_an_answer_is_read_as_it_was_written() -> None:
    content = RecordDict()
    secure.attach_answer(content, b"masked", AHEAD)
    assert secure.answer_in(content, AHEAD, max_bytes=6) == b"masked"
    assert secure.answer_in(content, max_bytes=6) is None
    with pytest.raises(DecodeError):
        secure.answer_in(RecordDict({CURRENT: vector_record("message", np.zeros(2000, np.uint8))}), max_bytes=100)


def test_a_name_is_read_as_it_was_written() -> None:
    assert secure.order_in(secure.hello()) == Order("hello")
    assert secure.name_in(secure.hello_answer("device-3")) == "device-3"


@pytest.mark.parametrize("record", [None, {}, {"name": ""}, {"name": "x" * 201}, {"name": 3}])
def test_a_device_without_a_name_is_refused(record: dict[str, object] | None) -> None:
    content = RecordDict() if record is None else RecordDict({CURRENT: ConfigRecord(record)})
    with pytest.raises(DecodeError, match="name"):
        secure.name_in(content)


@pytest.mark.parametrize(
    "record",
    [
        MetricRecord({"step": 1}),
        ArrayRecord(),
        ConfigRecord(),
        ConfigRecord({"step": "reveal", "message": b""}),
        ConfigRecord({"step": 3, "message": b""}),
        ConfigRecord({"step": "share"}),
        ConfigRecord({"step": "share", "message": "text"}),
        ConfigRecord({"step": "share", "message": b"", "header": b""}),
        ConfigRecord({"step": "advertise", "message": b""}),
        ConfigRecord({"step": "advertise", "header": bytes(secure.MAX_ORDER_BYTES + 1)}),
        ConfigRecord({"step": "hello", "message": b""}),
    ],
)
def test_anything_else_is_no_order(record: ConfigRecord) -> None:
    with pytest.raises(DecodeError, match=CURRENT):
        secure.order_in(RecordDict({CURRENT: record}))


def test_a_step_out_of_place_is_refused() -> None:
    content = secure.asked(1, Order("train", message=b""))
    with pytest.raises(DecodeError, match="wanted one of sign, unmask"):
        secure.order_in(content, steps=("sign", "unmask"))


@pytest.mark.parametrize("record", [ConfigRecord({"message": b""}), ArrayRecord(), vector_record("other", np.zeros(2))])
def test_anything_else_is_no_answer(record: ConfigRecord) -> None:
    with pytest.raises(DecodeError):
        secure.answer_in(RecordDict({CURRENT: record}), max_bytes=100)


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.binary(max_size=9), st.text(max_size=9), st.integers(-9, 9))))
def test_reading_raises_nothing_outside_the_tree(values: dict[str, object]) -> None:
    content = RecordDict({CURRENT: ConfigRecord(values)})
    for read in (secure.order_in, secure.name_in, lambda c: secure.answer_in(c, max_bytes=9)):
        try:
            read(content)
        except FedMeshError:
            continue


def test_hashes_are_over_little_endian_float32() -> None:
    weights = np.array([1.0, -2.5], np.float32)
    assert secure.model_hash(weights) == secure.model_hash(weights.astype(">f4").astype(np.float32))
    assert secure.model_hash(weights) == hashlib.sha256(bytes.fromhex("0000803f000020c0")).digest()
    assert secure.scale_hash([0.5]) == hashlib.sha256(bytes.fromhex("0000003f")).digest()
    assert secure.scale_hash(np.array([0.1], np.float32)) == secure.scale_hash([float(np.float32(0.1))])


def test_the_records_travel_in_a_message() -> None:
    message = training.train_message(2, training.start())
    secure.attach(message.content, Order("train", message=b"deliveries"))
    assert secure.order_in(unfold(fold(message)).content) == Order("train", message=b"deliveries")
