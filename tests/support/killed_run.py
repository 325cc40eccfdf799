"""A program that runs a federation in child processes and kills each with SIGKILL at a random moment, until one ends.

    python killed_run.py JOURNAL ours|fedadam ROUNDS SEED

JOURNAL is a path, or the URL of a store of runs.

Prints one JSON object: how many children were killed and at which rounds, the journal's records, the last arrays.
"""

import itertools
import json
import math
import os
import random
import signal
import sys
import time
from contextlib import closing
from typing import Any

import numpy as np
from flower_apps import LAYOUT, delta_app, plain_app
from flwr.app import Context, Message
from flwr.serverapp.strategy import FedAdam
from journals import opened

from fedmesh.coordinator import Coordinator, Journal, RoundJournal, RunResult
from fedmesh.flower import FleetGrid, InlineFleet, quiet_flower
from fedmesh.flower.arrays import vector_record
from fedmesh.quantization.codec import relative_ranges
from fedmesh_strategies.fedavg import FedAvg

NODES = 3


def federation(kind: str, journal: RoundJournal, rounds: int, *, pause_s: float, most: float = math.inf) -> RunResult:
    """The run that is killed, or not; it waits for its end behind `most` trainings."""
    inner, trained = (delta_app() if kind == "ours" else plain_app()), itertools.count(1)

    def slow(message: Message, context: Context) -> Message:
        over = message.metadata.message_type == "train" and next(trained) > most
        time.sleep(60.0 if over else pause_s)
        return inner(message, context)

    start = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
    # Flower's strategies draw nodes, and so the order of float sums, from the global generator.
    random.seed(0)
    strategy = FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5)) if kind == "ours" else FedAdam()
    with quiet_flower():
        return Coordinator(strategy, FleetGrid(InlineFleet(slow, NODES)), journal).run(start, rounds)


def describe(result: RunResult) -> dict[str, Any]:
    """The run as JSON carries it."""
    return {
        "records": [[r.round, r.survivors, r.metrics.get("train.visits")] for r in result.records],
        "arrays": [array.numpy().tobytes().hex() for array in result.arrays.values()],
    }


def main(path: str, kind: str, rounds: int, seed: int) -> None:
    """Kills children until one has finished."""
    moments, kills, longest_s = random.Random(seed), list[int](), 0.1
    while True:
        longest_s *= 1.05  # on a busy machine a child needs longer to get anywhere
        pid = os.fork()
        if pid == 0:
            with closing(opened(path)) as journal:
                federation(kind, journal, rounds, pause_s=0.002, most=3 * NODES)  # so that it is not over in one life
            os._exit(0)
        deadline = time.monotonic() + moments.uniform(0.0, longest_s)
        while time.monotonic() < deadline and not os.waitpid(pid, os.WNOHANG)[0]:
            time.sleep(0.0005)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        os.waitpid(pid, 0)
        with closing(opened(path)) as journal:
            kills.append(len(journal.records()) - 1)
    with closing(opened(path)) as journal:
        resumed = federation(kind, journal, rounds, pause_s=0.0)
    whole = federation(kind, Journal(), rounds, pause_s=0.0)
    print(json.dumps({"kills": kills, "resumed": describe(resumed), "whole": describe(whole)}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
