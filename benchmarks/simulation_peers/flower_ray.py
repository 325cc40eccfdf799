"""The benchmark's work under Flower's own simulation (Ray), written as its PyTorch quickstart is."""

import json
import os
import sys
import time

WORK = json.loads(os.environ["FEDMESH_BENCHMARK"])

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


class Net(nn.Module):
    """The quickstart's network: 62,006 parameters."""

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


_loaders: dict[int, DataLoader] = {}


def load_data(partition: int) -> DataLoader:
    """The partition's data, made once in each actor (as the quickstart caches its data set)."""
    if partition not in _loaders:
        rng = np.random.default_rng([WORK["seed"], partition])
        x = rng.standard_normal((WORK["examples"], 3, 32, 32), dtype=np.float32)
        y = rng.integers(0, 10, WORK["examples"])
        data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        _loaders[partition] = DataLoader(data, batch_size=WORK["batch"], shuffle=True)
    return _loaders[partition]


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loader = load_data(int(context.node_config["partition-id"]))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"], momentum=WORK["momentum"])
    model.train()
    running_loss = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    metrics = {"train_loss": running_loss / len(loader), "num-examples": len(loader.dataset)}
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg, with the times at which rounds begin and end."""

    begun: list[float] = []
    ended: list[float] = []

    def configure_train(self, *args, **kwargs):
        self.begun.append(time.time())
        return super().configure_train(*args, **kwargs)

    def aggregate_train(self, *args, **kwargs):
        result = super().aggregate_train(*args, **kwargs)
        self.ended.append(time.time())
        return result


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=WORK["clients"])
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": WORK["learning_rate"]}),
        num_rounds=WORK["rounds"],
    )


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": WORK["cores"]}}
    run_simulation(server_app, client_app, num_supernodes=WORK["clients"], backend_config=resources)
    rounds = [end - begin for begin, end in zip(Timed.begun, Timed.ended, strict=True)]
    figures = {"first_round_s": Timed.ended[0] - WORK["started"], "rounds_s": rounds}
    sys.__stdout__.write("RESULT " + json.dumps(figures) + "\n")
