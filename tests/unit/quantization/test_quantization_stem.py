import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fedmesh.quantization import calibrate, export_int8, prepare, verify


def export(tmp_path, convolution, side, width=None):
    """The exported model of one convolution and a head, and the operators of its file."""
    shape = (convolution.in_channels, side, width or side)
    model = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(1)) - 0.3
    graph = prepare(model.eval(), x[:1])
    calibrate(graph, [x])
    path = tmp_path / "model.onnx"
    export_int8(graph, path, example=x[:1])
    agreement = verify(graph, path, x)
    return agreement, {node.op_type: node for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("kernel", [3, 4, 5, 7])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_strided_first_convolution_is_written_over_blocks_and_stays_bit_equal(tmp_path, kernel, padding, channels):
    padding = min(padding, kernel // 2)
    agreement, nodes = export(tmp_path, nn.Conv2d(channels, 8, kernel, stride=2, padding=padding), 66, 64)
    assert "SpaceToDepth" in nodes
    assert next(a.ints for a in nodes["Conv"].attribute if a.name == "strides") == [1, 1]
    assert agreement.max_abs_logit_difference == 0.0


@pytest.mark.parametrize(
    ("convolution", "side"),
    [
        (nn.Conv2d(3, 8, 7, stride=2, padding=3), 65),  # an odd side has no whole blocks
        (nn.Conv2d(3, 8, 7, stride=2, padding=3), 32),  # too small to pay
        (nn.Conv2d(8, 8, 3, stride=2, padding=1), 64),  # enough channels already
        (nn.Conv2d(3, 8, 3, stride=1, padding=1), 64),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2), 64),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), 64),
        (nn.Conv2d(3, 8, 2, stride=2), 64),
    ],
)
def test_other_convolutions_are_written_as_they_are(tmp_path, convolution, side):
    agreement, nodes = export(tmp_path, convolution, side)
    assert "SpaceToDepth" not in nodes
    assert agreement.max_abs_logit_difference == 0.0


def test_a_convolution_that_is_not_the_first_is_written_as_it_is(tmp_path):
    first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 8, 3, stride=2, padding=1))
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    x = torch.rand(8, 3, 64, 64)
    graph = prepare(model.eval(), x[:1])
    calibrate(graph, [x])
    export_int8(graph, tmp_path / "model.onnx", example=x[:1])
    assert not any(node.op_type == "SpaceToDepth" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert verify(graph, tmp_path / "model.onnx", np.asarray(x)).max_abs_logit_difference == 0.0
