"""Any torch model to int8: prepare, calibrate, export, and check that ONNX Runtime computes the same bits.

    python examples/quantize_a_model.py [MODEL.onnx]

A small CNN with batch norm, on scikit-learn's handwritten digits.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedmesh.inference import Engine, evaluate
from fedmesh.quantization import calibrate, export_float, export_int8, prepare, verify
from fedmesh.types import Examples


def cnn() -> nn.Module:
    features = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(16 * 4 * 4, 10))


def trained(model: nn.Module, x: Tensor, y: Tensor, *, learning_rate: float, epochs: int) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x)), 32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def main(path: Path) -> tuple[float, float]:
    """Accuracy of the int8 and of the float file on digits that were not trained on."""
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(digits.target)
    held_out = Examples(x[1400:].numpy(), y[1400:].numpy())

    model = trained(cnn(), x[:1400], y[:1400], learning_rate=0.05, epochs=5).eval()
    graph = prepare(model, x[:1])  # batch norm is folded; the parameters are float32 master weights
    calibrate(graph, torch.split(x[:512], 64))  # activation ranges: constants from here on
    trained(graph, x[:1400], y[:1400], learning_rate=0.01, epochs=2)  # quantization-aware, like any torch module
    export_int8(graph, path, example=x[:1])
    export_float(graph, path.with_suffix(".float.onnx"), example=x[:1])
    agreement = verify(graph, path, x[1400:])  # raises unless all kernels are integer ones and all logits equal
    int8, float32 = (evaluate(Engine(file), held_out).accuracy for file in (path, path.with_suffix(".float.onnx")))
    print(f"int8 {int8:.3f}, float {float32:.3f}; largest logit difference {agreement.max_abs_logit_difference}")
    return int8, float32


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "digits.int8.onnx"))
