"""The benchmark's work under Apple's pfl, one process. Run by `benchmarks.simulation`."""

import functools
import json
import os
import sys
import time

WORK = json.loads(os.environ["FEDMESH_BENCHMARK"])

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from pfl.aggregate.simulate import SimulatedBackend  # noqa: E402
from pfl.algorithm.base import NNAlgorithmParams  # noqa: E402
from pfl.algorithm.federated_averaging import FederatedAveraging  # noqa: E402
from pfl.callback.base import TrainingProcessCallback  # noqa: E402
from pfl.data.dataset import Dataset  # noqa: E402
from pfl.data.federated_dataset import FederatedDataset  # noqa: E402
from pfl.data.sampling import get_user_sampler  # noqa: E402
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # noqa: E402
from pfl.metrics import Metrics, Weighted  # noqa: E402
from pfl.model.pytorch import PyTorchModel  # noqa: E402
from torch import nn  # noqa: E402


class Net(nn.Module):
    """The network of Flower's PyTorch quickstart, with the methods that pfl wants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.view(-1, 400)))
        return self.fc3(F.relu(self.fc2(x)))

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(F.cross_entropy(self(x), y, reduction="sum").item(), len(x))}


@functools.cache
def user(partition: int) -> Dataset:
    rng = np.random.default_rng([WORK["seed"], partition])
    x = rng.standard_normal((WORK["examples"], 3, 32, 32), dtype=np.float32)
    y = rng.integers(0, 10, WORK["examples"])
    return Dataset([torch.from_numpy(x), torch.from_numpy(y)])


class Timer(TrainingProcessCallback):
    """When rounds end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *, model):
        self.times.append(time.time())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.times.append(time.time())
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(WORK["threads"])
    data = FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(WORK["clients"]))))
    model = Net()
    create = functools.partial(torch.optim.SGD, momentum=WORK["momentum"])
    central = torch.optim.SGD(model.parameters(), lr=1.0)
    wrapped = PyTorchModel(model=model, local_optimizer_create=create, central_optimizer=central)
    timer = Timer()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            # No evaluation but the one that pfl insists on in round 0, which is left out of the figures.
            central_num_iterations=WORK["rounds"],
            evaluation_frequency=10**9,
            train_cohort_size=WORK["clients"],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=wrapped,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=WORK["learning_rate"], local_batch_size=WORK["batch"]
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=WORK["examples"]),
        callbacks=[timer],
    )
    rounds = [end - begin for begin, end in zip(timer.times, timer.times[1:], strict=False)]
    figures = {"first_round_s": timer.times[1] - WORK["started"], "rounds_s": rounds}
    sys.__stdout__.write("RESULT " + json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
