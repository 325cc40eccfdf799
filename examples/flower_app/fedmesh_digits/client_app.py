"""The devices: fedmesh's vision client behind secure aggregation, which any app with such replies could stand behind.

A server must not choose a device's randomness: the task that comes with its messages is taken `as_deployed`. A device
with private data would also hold it against a policy of its own before it trains.
"""

from collections.abc import Callable
from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmesh import wire
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.flower import SecAggMod
from fedmesh_clients.secure import HomeCredentials
from fedmesh_clients.vision import build
from fedmesh_digits import federation


def masked(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """A Flower mod: of the reply to ``train`` only the masked codes leave."""
    return secagg(context.run_id)(message, context, call_next)


app = ClientApp()


@app.train(mods=[masked])
def train(message: Message, context: Context) -> Message:
    task = message.content["config"]["task"]
    return trainer(task, int(context.node_config["num-partitions"]))(message, context)


@app.query("secagg")
def steps(message: Message, context: Context) -> Message:
    """The steps of secure aggregation besides training."""
    return secagg(context.run_id).steps(message, context)


@lru_cache(maxsize=2)
def secagg(run_id: int) -> SecAggMod:
    return SecAggMod(HomeCredentials(SimulatedHomes(identities=federation.identities())), federation.terms(run_id))


@lru_cache(maxsize=2)
def trainer(task: bytes, devices: int) -> ClientApp:
    """One resident model a process, whatever the number of devices that it plays."""
    plain = wire.loads(task, max_bytes=1 << 20)
    public = Task.from_plain(plain).as_deployed()
    return build(public, lambda partition: federation.data(devices).devices[partition], homes=SimulatedHomes())
