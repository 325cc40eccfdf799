"""A hostile server's backbones: only plain layers run, one example at a time, and no refusal tells of the data."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import heads
import lite_models
import numpy as np
import onnx
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lite_models import cut, noise
from onnx import TensorProto, helper, numpy_helper

from fedmesh.client.assignment import Assignment
from fedmesh.client.backbone import MAX_BACKBONE_BYTES, Backbone
from fedmesh.client.head_trainer import HeadTrainer
from fedmesh.errors import DecodeError
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.backbone import BACKBONE, DIGEST, attach_backbone, backbone_in, digest_in
from fedmesh.quantization.inspection import OPERATORS, inspect
from fedmesh.types import Examples

SHAPE, WIDTH = (1, 8, 8), 96


def loaded(data: bytes) -> Backbone:
    return Backbone(data, input_shape=SHAPE, width=WIDTH)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_from_string(cut().backbone)
    change(model)
    return model.SerializeToString()


def graph(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """A model of [batch, 1, 8, 8] to [batch, 96]."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def scaled(weight: np.ndarray) -> bytes:
    """Features are a linear map of the example."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w"], ["features"]),
    ]
    return graph(nodes, w=weight.astype(np.float32))


def external(model: onnx.ModelProto) -> None:
    constant = model.graph.initializer[0]
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    constant.external_data.add(key="location", value="/etc/hostname")


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[1])


def function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="mine")


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def branch(model: onnx.ModelProto) -> None:
    node = model.graph.node[-1]
    node.attribute.append(helper.make_attribute("then_branch", onnx.GraphProto(name="g")))


def operator(name: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(name, ["input"], ["x"], domain=domain))

    return change


def other_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


HOSTILE = [
    external,
    sparse,
    function,
    training,
    branch,
    other_domain,
    operator("If"),
    operator("Loop"),
    operator("Scan"),
    operator("RandomNormalLike"),
    operator("Bernoulli"),
    operator("Gather"),  # fails on an index out of bounds, which could be an example's value
    operator("ReduceMax"),  # over the batch
    operator("Conv", "com.microsoft"),
    operator("Gemm", "mine"),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_what_is_no_plain_layer_is_refused_before_it_is_loaded(change: Callable[[onnx.ModelProto], None]) -> None:
    """By us, that is: ONNX Runtime's own complaints read otherwise."""
    with pytest.raises(DecodeError, match=r"let through|with the operator"):
        loaded(changed(change))


def test_a_second_graph_in_the_same_file_is_looked_through_as_well() -> None:
    """Protocol buffers merge what comes twice."""
    hidden = onnx.ModelProto()
    operator("Loop")(hidden)
    with pytest.raises(DecodeError, match="operator 'Loop'"):
        inspect(cut().backbone + hidden.SerializeToString())


def test_ours_are_let_through() -> None:
    for name in lite_models.SHAPES:
        inspect(cut(name).backbone)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
@example(b"\x0b")
@example(b"\x80" * 30)
def test_any_bytes_are_let_through_or_refused(data: bytes) -> None:
    try:
        inspect(data)
    except DecodeError:
        return


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 1 << 30), st.integers(1, 255))
def test_a_backbone_with_a_flipped_byte_does_what_onnx_says_or_is_refused(position: int, mask: int) -> None:
    data = bytearray(cut().backbone)
    data[position % len(data)] ^= mask
    try:
        inspect(bytes(data))
    except DecodeError:
        return
    try:
        parsed = onnx.load_from_string(bytes(data))
    except Exception:  # noqa: BLE001 - a parser may be stricter about the content of fields
        return
    assert {node.op_type for node in parsed.graph.node} <= OPERATORS
    assert not parsed.functions
    assert not any(constant.external_data for constant in parsed.graph.initializer)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(MAX_BACKBONE_BYTES + 1), "at most"),
        (b"", "not a model"),
        (b"no model at all", "no ONNX model|not let through"),
        (cut().backbone[:-5], "no ONNX model|not a model"),
        (cut("har_cnn").backbone, "does not take examples of shape"),
        (scaled(np.ones((64, 95))), r"float32 \[1, 95\]; wanted finite float32 \[1, 96\]"),
        (scaled(np.full((64, 96), np.nan)), "some of it not finite"),
        (graph([helper.make_node("Flatten", ["input"], ["features"], axis=0)]), r"\[1, 64\]"),
    ],
    ids=["oversized", "empty", "text", "cut off", "other input", "other width", "NaN", "flat"],
)
def test_what_is_no_backbone_of_the_task_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        loaded(data)


def test_an_examples_features_depend_on_no_other_example() -> None:
    """DP-SGD bounds what an example adds; a graph that mixes them lets one example change what all of them add.

    X (X^T X) W, of plain layers and for batches of any size, does.
    """
    weight = np.random.default_rng(1).standard_normal((64, WIDTH)).astype(np.float32)
    mixing = graph(
        [
            helper.make_node("Flatten", ["input"], ["x"], axis=1),
            helper.make_node("Gemm", ["x", "x"], ["xx"], transA=1),
            helper.make_node("Gemm", ["x", "xx"], ["mixed"]),
            helper.make_node("Gemm", ["mixed", "w"], ["features"]),
        ],
        w=weight,
    )
    x = noise("digits_cnn", 12)
    for data in (mixing, cut().backbone):
        among_others = loaded(data).features(x)
        for index in range(len(x)):
            np.testing.assert_array_equal(loaded(data).features(x[index : index + 1])[0], among_others[index])


def test_one_example_that_it_fails_on_spoils_no_other() -> None:
    weight = np.zeros((64, 96))
    weight[0] = 3e38
    x = np.zeros((3, *SHAPE), np.float32)
    x[1, 0, 0, 0] = 10  # overflows; times zero elsewhere it would be NaN
    features = loaded(scaled(weight)).features(x)
    assert np.isfinite(features[[0, 2]]).all()
    assert not np.isfinite(features[1]).any()


def poisoned(device: int) -> Examples:
    """The third example makes the backbone below overflow."""
    examples = lite_models.examples(device)
    x = np.clip(examples.x, -1, 1)
    x[2, 0, 0, 0] = np.nan
    return Examples(x, examples.y)


def test_under_privacy_no_refusal_depends_on_an_example() -> None:
    """A server could otherwise ask by a backbone whether an example is among the device's, past all noise."""
    made, ledger = cut(), heads.Recorder()
    task = made.with_task(dp=dataclasses.replace(heads.DP, noise_multiplier=1e-9))  # so that the gradients show
    data = scaled(np.random.default_rng(1).standard_normal((64, 96)))
    asked = Assignment(1, 0, made.weights, [0.5] * 6, backbone=data)
    answer = HeadTrainer(task).train(asked, poisoned(0), ledger=ledger)
    assert len(ledger.charged) == 1
    without = poisoned(0)
    kept = np.arange(len(without)) != 2
    want = HeadTrainer(task).fit(asked, without[kept], ledger=heads.Recorder()).delta
    got = HeadTrainer(task).fit(asked, poisoned(0), ledger=heads.Recorder()).delta
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert answer.packet
    with pytest.raises(DecodeError, match="not finite"):  # nobody promised anything here
        HeadTrainer(made.task).train(asked, poisoned(0))


def message(data: bytes, digest: object) -> RecordDict:
    content = RecordDict({"config": ConfigRecord({} if digest is None else {DIGEST: digest})})  # type: ignore[dict-item]
    attach_backbone(content, data)
    return content


def test_a_backbone_is_read_as_it_was_sent() -> None:
    data = b"some bytes"
    content = message(data, hashlib.sha256(data).digest())
    assert backbone_in(content, max_bytes=10) == data
    assert digest_in(content) == hashlib.sha256(data).digest()
    assert backbone_in(RecordDict(), max_bytes=10) is None
    assert digest_in(RecordDict()) == b""


@pytest.mark.parametrize("digest", [None, b"", bytes(32), bytes(31), "00" * 32, [1, 2]])
def test_a_backbone_with_another_digest_is_refused(digest: object) -> None:
    with pytest.raises(DecodeError, match="SHA-256"):
        backbone_in(message(b"some bytes", digest), max_bytes=100)


def test_malformed_records_are_refused() -> None:
    with pytest.raises(DecodeError):
        backbone_in(message(bytes(5000), bytes(32)), max_bytes=100)
    for record in (ConfigRecord({"onnx": b"x"}), vector_record("other", np.zeros(3, np.uint8))):
        with pytest.raises(DecodeError):
            backbone_in(RecordDict({BACKBONE: record}), max_bytes=100)
    with pytest.raises(DecodeError):
        backbone_in(RecordDict({BACKBONE: vector_record("onnx", np.zeros(3, np.float32))}), max_bytes=100)


def test_no_other_file_is_read() -> None:
    """External data is refused by us; ONNX Runtime would look for it."""
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "weights"
        secret.write_bytes(bytes(4096))

        def change(model: onnx.ModelProto) -> None:
            external(model)
            model.graph.initializer[0].external_data[0].value = str(secret)

        with pytest.raises(DecodeError, match=r"a constant of a backbone holds the field 1[34]"):
            loaded(changed(change))
