"""The server: a public start, FedAvg of a secure sum in Flower's own loop, and the int8 model after each round."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from fedmesh import wire
from fedmesh.client.identities import AGGREGATOR, create_identities, open_identity
from fedmesh.coordinator import SecureSettings
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.federation.start import make_start
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.inference import Engine, evaluate
from fedmesh.quantization import arrays_of, export_int8, load_arrays, verify
from fedmesh.types import Layout
from fedmesh_digits import federation
from fedmesh_strategies.secure import Secured

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    out = Path(str(config.get("out", "fedmesh_digits.int8.onnx")))
    settings = {key: config[name] for key, name in _SETTINGS.items() if name in config}
    devices = int(config.get("devices", 10))
    scenario, data = federation.scenario(devices, **settings), federation.data(devices)

    model, start = make_start(scenario, data.public, len(data.classes))
    layout = Layout.of(arrays_of(model))
    task = make_task(scenario, start, data.public.x.shape[1:], len(data.classes))

    def judged(number: int, arrays: ArrayRecord) -> MetricRecord:
        weights = vector(arrays, "model", dtype="float32", max_bytes=4 * layout.size)
        load_arrays(model, layout.unflatten(weights))
        export_int8(model, out, example=torch.from_numpy(data.public.x[:1]))
        verify(model, out, data.held_out.x[:200])  # raises unless ONNX Runtime computes the trained function
        figures = evaluate(Engine(out), data.held_out)
        print(f"round {number}: int8 accuracy {figures.accuracy:.3f}")
        return MetricRecord({"accuracy_int8": figures.accuracy, "loss": figures.loss})

    roster = create_identities(federation.identities(), devices)  # enrolment, where all live on one machine
    own = open_identity(federation.identities(), AGGREGATOR)
    sums = SecureSettings(federation.terms(context.run_id).task, federation.BITS)
    Secured(make_strategy(scenario, layout, task), identity=own, roster=roster, settings=sums).start(
        grid=grid,
        initial_arrays=vector_record("model", start.weights),
        num_rounds=int(config.get("num-server-rounds", 8)),
        train_config=ConfigRecord({"task": wire.dumps(task.to_plain())}),
        evaluate_fn=judged,
    )


_SETTINGS = {"pretrain_epochs": "pretrain-epochs", "learning_rate": "learning-rate"}
