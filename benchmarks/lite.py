"""Lite devices in a federation: accuracy by their share, and what a lite device's round takes.

``python -m benchmarks.lite [--seeds 3] [--epsilon 8 3] [--rounds 20] [--json]``: the scenario ``digits`` with no, half
and all of its devices lite, by privacy budget. *rescaled* is half lite with the backbone's change averaged over the
full devices only (as HeteroFL does, Diao et al. 2021) instead of over all. Without secure aggregation, which changes
no bit of it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmesh.client.backbone import Backbone
from fedmesh.coordinator.tiers import Tiered
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.tiers import Backbones
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.quantization.head import Head
from fedmesh.simulation import run
from fedmesh.simulation.tiers import LITE
from fedmesh.simulation.zygote import Zygote, preload_of

SCENARIO = Path(__file__).parents[1] / "simulations" / "digits.toml"
BUDGETS: tuple[float | None, ...] = (None, 8.0, 3.0, 1.0)
REPEATS = 10
SHARES = {"full": 0.0, "half": 0.5, "rescaled": 0.5, "lite": 1.0}


class _Rescaled(Tiered):
    """The backbone moves by the mean of the devices that train it; for runs in which nobody is lost."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._before = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert arrays is not None
        before, after = (
            vector(record, "model", dtype="float32", max_bytes=4 * self.layout.size)
            for record in (self._before, arrays)
        )
        change = self.layout.unflatten(after - before)
        for name in self.layout.names[:-2]:  # all but the last layer's weight and bias
            change[name] = change[name] / (1 - SHARES["rescaled"])
        return vector_record("model", before + self.layout.flatten(change)), metrics


def accuracy(zygote: Zygote, seed: int, budget: float | None, kind: str, rounds: int | None) -> tuple[float, float]:
    """Of the int8 model on held-out digits, at the start and at the end."""
    changes: dict[str, Any] = {"seed": seed, "secure_aggregation.enabled": False, "client.lite_fraction": SHARES[kind]}
    changes |= {"privacy.enabled": False} if budget is None else {"privacy.epsilon": budget}
    changes |= {} if rounds is None else {"rounds": rounds}
    with tempfile.TemporaryDirectory() as folder, patch.object(run, "tiered", _made(kind)):
        result = run.simulate(Scenario.load(SCENARIO, changes), Path(folder) / "run", zygote=zygote)
    return result["start"]["accuracy_int8"], result["final"]["accuracy_int8"]


def _made(kind: str) -> Callable[..., Tiered]:
    made = _Rescaled if kind == "rescaled" else Tiered

    def tiered(strategy: Any, backbones: Backbones, is_lite: Callable[[int], bool]) -> Tiered:
        return made(strategy, is_lite=is_lite, backbone_of=backbones.of)

    return tiered


def figures(seeds: int, budgets: Sequence[float | None] = BUDGETS, *, rounds: int | None = None) -> dict[str, Any]:
    """Budget -> kind -> accuracies by seed; and the accuracies of the starts. `rounds`: None for the scenario's."""
    starts: list[float] = []
    found: dict[str, Any] = {}
    modules = preload_of("vision", private=any(budgets)) + preload_of(LITE, private=False)
    with closing(Zygote(modules)) as zygote:
        for budget in budgets:
            rows = {
                kind: [accuracy(zygote, seed, budget, kind, rounds) for seed in range(1, seeds + 1)] for kind in SHARES
            }
            starts = [start for start, _ in rows["full"]]
            found["no privacy" if budget is None else f"epsilon {budget:g}"] = {
                kind: [end for _, end in pairs] for kind, pairs in rows.items()
            }
    return {"start": starts, "accuracy": found, "device": device()}


def device() -> dict[str, float]:
    """The backbone of LeNet at 3x32x32: bytes, and milliseconds of processor time to load it and to run one example."""
    import torch

    from fedmesh.quantization import calibrate, export_backbone, head_of, prepare
    from fedmesh.testing.architectures import lenet

    x = np.random.default_rng(1).standard_normal((200, 3, 32, 32), dtype=np.float32)
    model = prepare(lenet().eval(), torch.from_numpy(x[:1]))
    calibrate(model, [torch.from_numpy(x)])
    data, head = export_backbone(model, example=torch.from_numpy(x[:1])), head_of(model)
    return {"bytes": len(data), **_times(data, head, x)}


def _times(data: bytes, head: Head, x: NDArray[np.float32]) -> dict[str, float]:
    """Processor time, the best of several: a machine has other things to do."""
    spent = []
    for _ in range(REPEATS):
        begun = time.process_time()
        backbone = Backbone(data, input_shape=x.shape[1:], width=head.width)
        loaded = time.process_time()
        backbone.features(x)
        spent.append((loaded - begun, time.process_time() - loaded))
    load_s, run_s = (min(column) for column in zip(*spent, strict=True))
    return {"load_ms": load_s * 1e3, "example_ms": run_s / len(x) * 1e3}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, nargs="*", help="of these budgets only; none: without privacy")
    parser.add_argument("--rounds", type=int, help="of a run; none: as many as the scenario has")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    chosen = BUDGETS if arguments.epsilon is None else arguments.epsilon or (None,)
    found = figures(arguments.seeds, chosen, rounds=arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"digits, {arguments.seeds} seeds, int8 accuracy in %; start {np.mean(found['start']) * 100:.1f}")
    print("| |", " | ".join(SHARES), "|")
    print("|---" * (len(SHARES) + 1) + "|")
    for name, row in found["accuracy"].items():
        cells = [f"{np.mean(ends) * 100:.1f} +-{np.std(ends) * 100:.1f}" for ends in row.values()]
        print("|", name, "|", " | ".join(cells), "|")
    size = found["device"]
    print(f"LeNet's backbone: {size['bytes'] / 1e3:.1f} kB, loaded in {size['load_ms']:.1f} ms, ", end="")
    print(f"{size['example_ms']:.3f} ms for an example")


if __name__ == "__main__":
    main()
