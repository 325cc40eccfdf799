"""The devices: fedmesh's vision client, built from the public task that comes with the first message.

A server must not choose a device's randomness: the task is taken `as_deployed`. A device with private data would also
hold it against a policy of its own before it trains.
"""

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmesh import wire
from fedmesh.client.task import Task
from fedmesh_clients.vision import build
from fedmesh_digits import federation

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    task = message.content["config"]["task"]
    return trainer(task, int(context.node_config["num-partitions"]))(message, context)


@lru_cache(maxsize=2)
def trainer(task: bytes, devices: int) -> ClientApp:
    """One resident model a process, whatever the number of devices that it plays."""
    plain = wire.loads(task, max_bytes=1 << 20)
    return build(Task.from_plain(plain).as_deployed(), lambda partition: federation.data(devices).devices[partition])
