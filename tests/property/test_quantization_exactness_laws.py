"""The law of the exporter: with power-of-two scales the int8 file is the trained function."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmesh.quantization import calibrate, export_int8, prepare, verify
from fedmesh.testing.architectures import randomize_norms

CHANNELS = 4


class _Block(nn.Module):
    """Convolution, perhaps normalized, rectified, pooled, and added to its input."""

    def __init__(self, *, kernel: int, groups: int, norm: bool, rectifier: str, pool: str, residual: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2, groups=groups, bias=not norm)
        ]
        if norm:
            layers.append(nn.BatchNorm2d(CHANNELS))
        self.body = nn.Sequential(*layers)
        self.rectifier = {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "none": nn.Identity()}[rectifier]
        self.pool = {"max": nn.MaxPool2d(3, 1, 1), "average": nn.AvgPool2d(3, 1), "none": nn.Identity()}[pool]
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        if self.residual:
            out = out + x
        result: Tensor = self.pool(self.rectifier(out))
        return result


blocks = st.builds(
    _Block,
    kernel=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2, CHANNELS]),
    norm=st.booleans(),
    rectifier=st.sampled_from(["relu", "relu6", "none"]),
    pool=st.sampled_from(["max", "average", "none"]),
    residual=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(
    body=st.lists(blocks, min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    gain=st.sampled_from([0.01, 1.0, 30.0]),
    head=st.booleans(),
)
def test_the_file_is_the_function(body: list[_Block], seed: int, gain: float, head: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *([nn.Linear(CHANNELS, 3)] if head else []))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    randomize_norms(model, generator)
    inputs = gain * torch.randn(40, CHANNELS, 9, 9, generator=generator)
    graph = prepare(model, inputs)
    calibrate(graph, [inputs[:20]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_int8(graph, path, example=inputs)
        agreement = verify(graph, path, inputs)
    assert agreement.max_abs_logit_difference == 0.0
    assert agreement.argmax_agreement == 1.0
