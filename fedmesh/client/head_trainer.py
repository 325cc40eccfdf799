"""What a device without torch does in a federation of any model that ends with a linear layer: it trains that layer.

The rest of the model, the backbone, comes with each round as an int8 ONNX model and runs in ONNX Runtime. The device's
update is zero there, so it can be summed with those of devices that train everything. Under differential privacy it
keeps the same promise as they do, for the same charge: a round is a release of the head's noisy gradients, clipped over
all that the device trains; what the backbone computes of one example depends on no other (`fedmesh.client.backbone`).
"""

import hashlib

import numpy as np

from fedmesh.client.assignment import Assignment, Fitted, Trained, check_examples, check_promises, check_weights
from fedmesh.client.backbone import Backbone
from fedmesh.client.linear_head import LinearHead
from fedmesh.client.lite_sgd import fit, fit_private
from fedmesh.client.randomness import batch_order
from fedmesh.client.release import codec_of, encode, pay
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.quantization.head import Head
from fedmesh.types import Examples, Layout, Ledger

__all__ = ["HeadTrainer", "check_lite"]


class HeadTrainer:
    """Trains the last layer of the task's model behind the round's backbone, by plain SGD or by DP-SGD.

    It keeps the last backbone loaded, and nothing else between rounds.

    Args:
        task: the public task; it says which layer is the last.

    Raises:
        ConfigError: `check_lite` refuses the task, or it asks for a combination that would break a promise.
    """

    def __init__(self, task: Task) -> None:
        check_promises(task)
        self.task = task
        self._last = check_lite(task)
        self._head = LinearHead.behind(self._last, task)
        self._loaded: tuple[bytes, Backbone] | None = None

    @property
    def layout(self) -> Layout:
        """Names and shapes of the whole model's arrays."""
        return self._last.layout

    def train(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Trained:
        """Pays, trains and encodes; see `TaskTrainer.train`.

        Raises:
            DecodeError: also where the backbone is missing, refused or, without privacy, gives what is not finite.
        """
        check_examples(self.task, examples)
        codec = codec_of(self.task, self.layout, assignment)
        return encode(self.task, codec, assignment, self.fit(assignment, examples, ledger=ledger))

    def fit(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Fitted:
        """Pays and trains, without encoding; raises as `train`. The change is zero outside of the head."""
        check_weights(assignment.weights, self.layout.size)
        features = Examples(self._backbone(assignment.backbone).features(examples.x), examples.y)
        start = self._last.take(assignment.weights)
        with np.errstate(over="ignore", invalid="ignore"):  # as in `LiteTrainer`
            if self.task.dp is None:
                if not np.isfinite(features.x).all():
                    raise DecodeError("the backbone that came gives features that are not finite: nothing is trained")
                order = batch_order(self.task, assignment.round, assignment.device)
                fitted = fit(self.task, self._head, start, features, order)
            else:  # to refuse what depends on the examples would tell of them: such an example counts as zero
                noise = pay(self.task, assignment, ledger)
                fitted = fit_private(self.task, self._head, start, features, noise)
        return Fitted(self._last.spread(fitted.delta), fitted.metrics)

    def _backbone(self, data: bytes | None) -> Backbone:
        if data is None:
            raise DecodeError("an assignment came without a backbone: this device trains the last layer behind one")
        digest = hashlib.sha256(data).digest()
        if self._loaded is None or self._loaded[0] != digest:
            found = Backbone(data, input_shape=self.task.input_shape, width=self._last.width)
            self._loaded = digest, found
        return self._loaded[1]


def check_lite(task: Task) -> Head:
    """The last layer of a task that lite devices can take part in.

    Raises:
        ConfigError: the task does not say which it is, puts its noise into the sum, or does not train through int8.
    """
    if task.head is None:
        raise ConfigError(
            f"task {task.name} does not say which layer of {task.model!r} is the last: its scenario plans no lite "
            "devices. Set client.lite_fraction there, or train the whole model on this device"
        )
    if task.summed is not None:
        raise ConfigError(
            f"task {task.name} has privacy.mode = {task.mode!r}: lite devices of a larger model take part without "
            "privacy, and in the mode 'local'"
        )
    if task.training != "qat":
        raise ConfigError(
            f"task {task.name} trains in {task.training!r}, and the int8 backbone of a lite device is another function "
            "than that: use quantization.training = 'qat'"
        )
    return task.head
