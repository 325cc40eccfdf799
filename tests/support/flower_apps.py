"""Small Flower apps for tests: deterministic, and quick enough to run hundreds of times."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmesh.flower.arrays import pack, vector_record
from fedmesh.flower.identity import SERVER_NODE_ID, adopt
from fedmesh.flower.records import new_message_id
from fedmesh.quantization.codec import DeltaCodec, FloatCodec
from fedmesh.types import Layout

LAYOUT = Layout(("w", "b"), ((4, 3), (3,)))


def plain_app() -> ClientApp:
    """Answers Flower's own strategies: every array plus 1 + partition, weight 1 + partition; counts its visits."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        step = 1 + int(context.node_config["partition-id"])
        visits = context.state.config_records.setdefault("visits", ConfigRecord({"count": 0}))
        visits["count"] = int(visits["count"]) + 1
        arrays = {k: pack(a.numpy() + np.float32(step)) for k, a in message.content["arrays"].items()}
        metrics = MetricRecord({"num-examples": step, "train_loss": 1.0 / step, "visits": visits["count"]})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "eval_loss": 2.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.query("stubborn")
    def stubborn(message: Message, context: Context) -> Message:
        context.state["scratch"] = ConfigRecord({"half": True})
        raise ValueError(f"secret {context.node_id}")

    @app.query("stray")
    def stray(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=Message(RecordDict(), SERVER_NODE_ID, "query"))

    return app


def delta_app(bits: int | None = 8) -> ClientApp:
    """Answers our FedAvg: moves every weight towards partition / 10 by a tenth; the delta is a packet."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = message.content["arrays"]["model"].numpy()
        config = message.content["config"]
        partition = int(context.node_config["partition-id"])
        delta = (np.float32(partition / 10) - weights) * np.float32(0.1)
        codec = FloatCodec(LAYOUT) if bits is None else DeltaCodec(LAYOUT, bits, config["delta-ranges"])
        rng = np.random.default_rng([partition, config["server-round"]])
        packet = np.frombuffer(codec.encode_vector(delta, rng), np.uint8)
        content = RecordDict({"update": vector_record("delta", packet)})
        content["metrics"] = MetricRecord({"num-examples": partition + 1})
        return Message(content, reply_to=message)

    return app


def instruction(
    node_id: int, message_type: str = "train", *, values: float = 0.0, run_id: int = 7, ttl: float | None = None
) -> Message:
    """A message as the grid would send it."""
    adopt(run_id)
    arrays = vector_record("model", np.full(15, values, np.float32))
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 3})})
    message = Message(content, node_id, message_type, ttl=ttl)
    message.metadata.__dict__["_message_id"] = new_message_id()
    return message
