"""The benchmark's work on fedmesh's engine. Run by `benchmarks.simulation`."""

import json
import math
import os
import sys
import time
from typing import Any

WORK = json.loads(os.environ["FEDMESH_BENCHMARK"])

from fedmesh.simulation.zygote import Zygote, preload_of  # noqa: E402


def main() -> None:
    # The clients' imports run while this process does its own and makes the data.
    zygote = Zygote(preload_of("vision", private=False))

    import numpy as np
    from flwr.app import ConfigRecord, Message, RecordDict

    from fedmesh.client.task import Task
    from fedmesh.flower.arrays import vector, vector_record
    from fedmesh.flower.grid import FleetGrid
    from fedmesh.quantization.codec import DeltaCodec, FloatCodec, PacketSum, public_ranges
    from fedmesh.simulation.engine import ClientSpec, WorkerFleet
    from fedmesh.simulation.shared import SharedExamples
    from fedmesh.types import Examples, Layout

    def examples_of(partition: int) -> Examples:
        rng = np.random.default_rng([WORK["seed"], partition])
        x = rng.standard_normal((WORK["examples"], 3, 32, 32), dtype=np.float32)
        return Examples(x, rng.integers(0, 10, WORK["examples"]))

    shapes = {"0": (6, 3, 5, 5), "3": (16, 6, 5, 5), "7": (120, 400), "9": (84, 120), "11": (10, 84)}
    named = {f"{n}.{kind}": s if kind == "weight" else s[:1] for n, s in shapes.items() for kind in ("weight", "bias")}
    layout = Layout(tuple(named), tuple(named.values()))
    rng = np.random.default_rng(WORK["seed"])
    weights = np.concatenate([initial(rng, shape) for shape in layout.shapes])
    integer = WORK["codec"] == "integer"
    task = Task(
        name="benchmark",
        model="lenet",
        input_shape=(3, 32, 32),
        classes=10,
        ranges=WORK["ranges"],
        training=WORK["training"],
        codec=WORK["codec"],
        batch_size=WORK["batch"],
        learning_rate=WORK["learning_rate"],
        momentum=WORK["momentum"],
        keyed_noise_seed=WORK["seed"],
    )
    data = SharedExamples.pack([examples_of(partition) for partition in range(WORK["clients"])])
    rounds = []
    with WorkerFleet(
        ClientSpec("vision", task, data), WORK["clients"], workers=WORK["workers"], launcher=zygote
    ) as fleet:
        grid = FleetGrid(fleet)
        for number in range(1, WORK["rounds"] + 1):
            begin = time.time()
            ranges = public_ranges(layout.unflatten(weights), 0.25)
            codec = DeltaCodec(layout, 8, ranges) if integer else FloatCodec(layout)
            config = ConfigRecord({"server-round": number, "delta-ranges": ranges.tolist()})
            content = RecordDict({"arrays": vector_record("model", weights), "config": config})
            messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
            total = PacketSum(codec, codec.packet_bytes)
            for reply in grid.send_and_receive(messages):
                record = reply.content.array_records["update"]
                total.add(vector(record, "delta", dtype="uint8", max_bytes=codec.packet_bytes).tobytes())
            weights = weights + total.mean()
            rounds.append(time.time() - begin)
            if number == 1:
                first = time.time() - WORK["started"]
    sys.stdout.write("RESULT " + json.dumps({"first_round_s": first, "rounds_s": rounds}) + "\n")


def initial(rng: Any, shape: tuple[int, ...]) -> Any:
    """Uniform weights as torch's own layers start from, about."""
    bound = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else 100)
    return rng.uniform(-bound, bound, math.prod(shape)).astype("float32")


if __name__ == "__main__":
    main()
