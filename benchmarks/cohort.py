"""Devices a second of one core, trained one after another and by cohorts: where the rule of `cohort_size` comes from.

python -m benchmarks.cohort [--json]
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fedmesh.client.cohort import Cohort, Member
from fedmesh.client.sgd import LocalSgd
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.quantization import calibrate, fake_quantization
from fedmesh.types import Examples

DEVICES = 64
EXAMPLES = 64
REPEATS = 5
MODELS = {
    "digits_cnn 1.4k": ("digits_cnn", (1, 8, 8), 10, {"width": 3}),
    "digits_cnn 6.6k": ("digits_cnn", (1, 8, 8), 10, {}),
    "har_cnn 9k": ("har_cnn", (9, 128), 6, {"width": 8}),
    "lenet 62k": ("lenet", (3, 32, 32), 10, {}),
}


def measure(name: str, training: str, sizes: tuple[int, ...]) -> dict[str, float]:
    """Devices a second: alone, and by cohorts of each size; the best of interleaved repeats, in processor time."""
    entry, shape, classes, options = MODELS[name]
    task = Task(
        name="benchmark", model=entry, input_shape=shape, classes=classes, model_options=options, training="float"
    )
    rng = np.random.default_rng(0)
    if training == "qat":
        model = build_model(task)
        fake_quantization(model, enabled=True)
        ranges = calibrate(model, [torch.from_numpy(rng.standard_normal((64, *shape), dtype=np.float32))])
        task = replace(task, training="qat", ranges=ranges)
    trainer = Trainer.of(task)
    devices = [
        Examples(rng.standard_normal((EXAMPLES, *shape), dtype=np.float32), rng.integers(0, classes, EXAMPLES))
        for _ in range(DEVICES)
    ]
    weights = (rng.standard_normal(trainer.parameters.size) * 0.1).astype(np.float32)
    sgd = LocalSgd(task, trainer.model, trainer.parameters)
    cohort = Cohort(task, trainer.model, trainer.parameters)

    def alone() -> None:
        for index, examples in enumerate(devices):
            sgd.fit(weights, examples, np.random.default_rng(index))

    def together(size: int) -> Callable[[], None]:
        def run() -> None:
            members = [Member(weights, e, np.random.default_rng(i)) for i, e in enumerate(devices)]
            for first in range(0, DEVICES, size):
                cohort.fit(members[first : first + size])

        return run

    ways = {"alone": alone, **{str(size): together(size) for size in sizes}}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, run in ways.items():
            begin = time.process_time()
            run()
            seconds[way].append(time.process_time() - begin)
    return {way: DEVICES / float(np.min(times)) for way, times in seconds.items()}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = {
        f"{name}, {training}": measure(name, training, tuple(arguments.sizes))
        for name in arguments.models
        for training in ("float", "qat")
    }
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{'model':28}{'alone/s':>10}" + "".join(f"{f'cohort of {size}':>16}" for size in arguments.sizes))
    for name, rates in table.items():
        gains = "".join(f"{rates[str(size)] / rates['alone']:>15.2f}x" for size in arguments.sizes)
        print(f"{name:28}{rates['alone']:>10.0f}{gains}")


if __name__ == "__main__":
    main()
