"""A resident model whose examples are taken one by one: the gradients of each, or their clipped sum.

Guarantees: the examples of a batch are told apart by every layer that is known to, models that mix them or remember
them in buffers are refused, and whatever a model keeps besides its parameters is the same afterwards. Does not
guarantee that a custom layer treats examples one by one, which only its author can know.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy.clipping import add_parts
from fedmesh.privacy.layer_parts import Call, layer_parts, row_size
from fedmesh.privacy.per_sample import attach, check_supported

__all__ = ["ExampleModel", "Loss", "check_labels", "summed_cross_entropy"]

Loss = Callable[[Tensor, Tensor], Tensor]


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over examples: every example's gradient is its own."""
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


class ExampleModel:
    """Hooks on one model, off but for the time of `resident`.

    Args:
        model: float32, on the CPU; its trainable parameters are the ones meant, in ``model.parameters()`` order.
        loss: sums over the examples of a batch; a mean would divide by the batch drawn, which is data.
        gradient_bytes: about what the examples taken at a time may need for gradients and activations.

    Raises:
        ConfigError: the model mixes examples (batch norm), has buffers, draws dropout masks or has nothing to train.
    """

    def __init__(self, model: nn.Module, loss: Loss, gradient_bytes: int) -> None:
        check_supported(model)
        self._model = model
        self._loss = loss
        self._bytes = gradient_bytes
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.sizes = [p.numel() for p in self.parameters]
        self.size = sum(self.sizes)
        self._parts: dict[torch.Size, int] = {}
        self._hooks = attach(model)

    @contextmanager
    def resident(self) -> Iterator[None]:
        """Hooks on, training mode; afterwards all is as it was, and nothing of the data is left on the model.

        Raises:
            TrustError: the model kept something of the data outside of its parameters.
        """
        training, state = self._model.training, _state(self._model)
        self._model.train()
        self._hooks.enable_hooks()
        try:
            yield
        finally:
            self._hooks.disable_hooks()
            self._hooks.forget()
            self._model.train(training)
        if _state(self._model) != state:
            raise TrustError(
                "the model changed something besides its parameters while training (a buffer, an activation range): "
                "the noise does not cover it, and the delta must not be sent"
            )

    def close(self) -> None:
        """Takes Opacus's hooks and attributes off the model."""
        self._hooks.cleanup()

    def part(self, x: Tensor) -> int:
        """How many examples like those of `x`, [N, ...], `add_clipped` takes at a time; by shapes alone, no data."""
        shape = x.shape[1:]
        if shape not in self._parts:
            self._model(torch.zeros(1, *shape, dtype=x.dtype))
            calls = self._hooks.seen()
            numbers = row_size(calls) + sum(_numbers(call) for call in calls)
            self._parts[shape] = max(1, self._bytes // (4 * numbers))
        return self._parts[shape]

    def add_clipped(self, total: Tensor, x: Tensor, y: Tensor, clip: float) -> None:
        """Adds the gradients of the examples, each clipped to `clip`, to `total`, float32 [P].

        Args:
            x: float32 [B, ...], B at least 1. y: their labels, int64 [B].
        """
        pieces = torch.split(total, self.sizes)
        totals = {p: piece.view_as(p) for p, piece in zip(self.parameters, pieces, strict=True)}
        with torch.no_grad():
            add_parts(layer_parts(self._calls(x, y), totals, self._hooks.sample), clip)

    def rows(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradients of the examples, float32 [B, P]: as they are, whatever their norm.

        Args:
            x: float32 [B, ...], B at least 1. y: their labels, int64 [B].
        """
        rows = torch.zeros(len(x), self.size)
        pieces = dict(zip(self.parameters, torch.split(rows, self.sizes, dim=1), strict=True))
        with torch.no_grad():
            for call in self._calls(x, y):
                for parameter, made in self._hooks.sample(call).items():  # a layer that is used twice adds up
                    pieces[parameter] += made.reshape(len(x), -1)
        return rows

    def _calls(self, x: Tensor, y: Tensor) -> list[Call]:
        with torch.enable_grad():
            calls: list[Call] = self._hooks.calls(self._loss(self._model(x), y))
        for call in calls:
            if len(call.backprops) != len(x):
                raise ConfigError(
                    f"a {type(call.module).__name__} saw {len(call.backprops)} rows for {len(x)} examples, so that an "
                    "example would be clipped in pieces: keep the examples apart as the first axis of every layer"
                )
        return calls


def check_labels(x: Tensor, y: Tensor) -> None:
    """Raises: ConfigError: there is not one label for each example."""
    if len(x) != len(y):
        raise ConfigError(f"{len(x)} examples came with {len(y)} labels: there must be one label each")


def _numbers(call: Call) -> int:
    """What a call's inputs and outputs take: each once itself, once rounded or as a gradient."""
    tensors: Sequence[Any] = [*call.activations, call.backprops]
    return 2 * sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def _state(model: nn.Module) -> list[tuple[str, str]]:
    """All that a model keeps besides parameters, to be compared: extra states, and buffers, of which there are none."""
    kept = [(name, repr(buffer)) for name, buffer in model.named_buffers()]
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            kept.append((name, repr(module.get_extra_state())))
    return kept
