"""The server's check of every round: export, compare bit for bit, run on held-out examples in ONNX Runtime.

It sees public and held-out examples only; in a simulation those held out on each device as well, because the one who
simulates has all the data. On a real fleet this last figure does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import RunDirectory
from fedmesh.inference import Engine, Evaluation, evaluate
from fedmesh.quantization import export_float, export_int8, fake_quantization, load_arrays, verify
from fedmesh.types import Float32, Layout

__all__ = ["Judge", "Verdict"]

_CHECKED_PER_ROUND = 256
_CHECKED_AT_THE_END = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One model's figures; `agreement` is the share of equal argmaxes between ONNX Runtime and torch."""

    evaluation: Evaluation
    agreement: float
    max_abs_logit_difference: float

    def as_metrics(self) -> Mapping[str, float]:
        """Plain numbers for the journal."""
        return {
            "accuracy_int8": self.evaluation.accuracy,
            "loss": self.evaluation.loss,
            "agreement": self.agreement,
            "max_abs_logit_difference": self.max_abs_logit_difference,
        }


class Judge:
    """Turns master weights into a checked int8 model.

    Args:
        model: the prepared model, used for nothing else.
        layout: of its arrays.
    """

    def __init__(
        self, model: torch.fx.GraphModule, layout: Layout, data: FederatedData, directory: RunDirectory
    ) -> None:
        self._model = model
        self._layout = layout
        self._data = data
        self._directory = directory
        self._example = torch.from_numpy(data.public.x[:1])

    def int8(self, weights: Float32, *, final: bool = False) -> Verdict:
        """Writes model.int8.onnx from `weights` [P] and judges it.

        Raises:
            MismatchError: it does not compute what the fake-quantized model computes.
        """
        self._load(weights)
        fake_quantization(self._model, enabled=True)
        path = self._directory.int8_model
        export_int8(self._model, path, example=self._example)
        count = _CHECKED_AT_THE_END if final else _CHECKED_PER_ROUND
        agreement = verify(self._model, path, self._data.held_out.x[:count])
        verdict = evaluate(Engine(path), self._data.held_out)
        return Verdict(verdict, agreement.argmax_agreement, agreement.max_abs_logit_difference)

    def float32(self, weights: Float32) -> Evaluation:
        """Writes model.float.onnx from `weights` [P] and evaluates it."""
        self._load(weights)
        export_float(self._model, self._directory.float_model, example=self._example)
        return evaluate(Engine(self._directory.float_model), self._data.held_out)

    def by_device(self) -> list[float | None]:
        """Accuracy of the int8 model on what each device held out; None where a device held out nothing."""
        engine = Engine(self._directory.int8_model)
        return [evaluate(engine, part).accuracy if len(part) else None for part in self._data.local]

    def _load(self, weights: Float32) -> None:
        load_arrays(self._model, self._layout.unflatten(weights))
