"""The gradient of every example of a device, for a sum whose noise is shared out: no sampling, no noise of its own.

Guarantees: a row depends on its example alone, each example has exactly one, and the model is left as it was. Does not
clip: whoever adds the rows does (`fedmesh.privacy.skellam.round_examples`), and counts those that are not finite as
zero.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from fedmesh.privacy.example_model import ExampleModel, Loss, check_labels, summed_cross_entropy

__all__ = ["ExampleGradients"]


class ExampleGradients:
    """Per-example gradients of one resident model, reused for round after round and device after device.

    Between calls, and between two rows' parts, the model is an ordinary model: load the round's weights into it.

    Args:
        model: float32, on the CPU; its trainable parameters are the ones meant, in ``model.parameters()`` order.
        loss: sums over the examples of a batch; a mean would divide by a count, which is data.
        gradient_bytes: of the rows that are given at a time.

    Raises:
        ConfigError: the model mixes examples (batch norm), has buffers, draws dropout masks or has nothing to train.
    """

    def __init__(self, model: nn.Module, *, loss: Loss = summed_cross_entropy, gradient_bytes: int = 1 << 25) -> None:
        self._examples = ExampleModel(model, loss, gradient_bytes)
        self._part = max(1, gradient_bytes // (4 * self._examples.size))

    @property
    def size(self) -> int:
        """P, the trainable parameters."""
        return self._examples.size

    def rows(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """One gradient for each example, in order: float32 [b, P] at a time, flat in ``model.parameters()`` order.

        Args:
            x: all of the device's training examples, float32 [N, ...]; N may be 0, then there are no rows.
            y: their labels, int64 [N].

        Raises:
            ConfigError: there is not one label for each example, or a layer does not keep the examples apart.
            TrustError: the model kept something of the data outside of its parameters.
        """
        check_labels(x, y)
        return self._rows(x, y)

    def close(self) -> None:
        """Takes Opacus's hooks and attributes off the model."""
        self._examples.close()

    def _rows(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        for start in range(0, len(x), self._part):
            with self._examples.resident():
                rows = self._examples.rows(x[start : start + self._part], y[start : start + self._part])
            yield rows
