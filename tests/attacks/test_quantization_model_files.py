"""Files that are not the exported model: each is an error that says what the file is, never a crash or an agreement."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from fedmesh.errors import ConfigError, FedMeshError, MismatchError
from fedmesh.quantization import calibrate, compare, export_int8, integer_kernels, prepare, verify

INPUTS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graph():
    model = prepare(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), INPUTS)
    calibrate(model, [INPUTS])
    return model


@pytest.fixture
def good(graph, tmp_path):
    path = tmp_path / "good.onnx"
    export_int8(graph, path, example=INPUTS)
    return path


@pytest.mark.parametrize(
    "content", [b"", b"not onnx", b"\x00" * 4096, b"PK\x03\x04", b"\x08\x08\x3a\xff\xff\xff\xff\x0f"]
)
def test_a_file_that_is_not_onnx(graph, tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    for check in (
        lambda: verify(graph, path, INPUTS),
        lambda: compare(graph, path, INPUTS),
        lambda: integer_kernels(path),
    ):
        with pytest.raises(ConfigError, match="not an ONNX model"):
            check()


def test_a_missing_file_and_a_folder(graph, tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ConfigError, match="not an ONNX model"):
            verify(graph, path, INPUTS)


def test_every_truncation_is_refused(graph, good, tmp_path):
    data = good.read_bytes()
    path = tmp_path / "cut.onnx"
    for end in range(0, len(data) - 1, max(1, len(data) // 40)):
        path.write_bytes(data[:end])
        with pytest.raises(FedMeshError):
            verify(graph, path, INPUTS)


def test_flipped_bytes_never_pass_as_another_function(graph, good, tmp_path):
    data = good.read_bytes()
    path = tmp_path / "flipped.onnx"
    rng = np.random.default_rng(0)
    want = graph(INPUTS).detach().numpy()
    for position in rng.integers(0, len(data), 60):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        try:
            agreement = verify(graph, path, INPUTS)
        except FedMeshError:
            continue
        assert agreement.max_abs_logit_difference == 0.0  # a byte of a name, or one that these inputs do not read
        assert np.isfinite(want).all()


def _float_layer(width):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [6, width], np.zeros(6 * width, np.float32))
    return helper.make_graph(
        [helper.make_node("Gemm", ["input", "w"], ["logits"])],
        "float",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width])],
        [weight],
    )


def _save(graph, path):
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_float_model_in_place_of_the_int8_one(graph, tmp_path):
    _save(_float_layer(3), tmp_path / "float.onnx")
    with pytest.raises(MismatchError, match="in float"):
        verify(graph, tmp_path / "float.onnx", INPUTS)


def test_a_model_of_other_outputs_or_inputs(graph, good, tmp_path):
    _save(_float_layer(4), tmp_path / "wide.onnx")
    with pytest.raises(ConfigError, match="returns"):
        compare(graph, tmp_path / "wide.onnx", INPUTS)
    other = prepare(nn.Linear(9, 3), torch.zeros(1, 9))
    calibrate(other, [torch.randn(4, 9)])
    with pytest.raises(ConfigError, match="takes inputs of shape"):
        compare(other, good, torch.zeros(2, 9))


def test_weights_that_lie_outside_the_file_are_not_read(graph, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(b"\x00" * 72)
    layer = _float_layer(3)
    tensor = layer.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path = tmp_path / "folder" / "outside.onnx"
    path.write_bytes(
        helper.make_model(layer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with pytest.raises(ConfigError, match="not an ONNX model"):
        compare(graph, path, INPUTS)


def test_logits_that_are_not_numbers_are_a_mismatch(graph, good):
    stored = onnx.load(good)
    for tensor in stored.graph.initializer:
        if tensor.name == "2.weight_scale":
            tensor.raw_data = np.full(3, np.nan, np.float32).tobytes()
    onnx.save(stored, good)
    with pytest.raises(FedMeshError):
        verify(graph, good, INPUTS)


def test_nothing_to_compare_on_is_refused(graph, good):
    with pytest.raises(ConfigError, match="at least one"):
        compare(graph, good, INPUTS[:0])
