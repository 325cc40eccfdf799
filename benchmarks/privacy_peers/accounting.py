"""Epsilon of a ledger of many rounds: read and accounted for by fedmesh, and event by event by plain dp-accounting."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.secagg_peers.clocks import Cost
from fedmesh.privacy import FileLedger, spent
from fedmesh.types import PrivacyEvent

EPSILON, DELTA = 1e6, 1e-5
STEPS = 4
MULTIPLIERS = (20.0, 25.0, 30.0)
RATE = 0.25


def events(rounds: int) -> list[PrivacyEvent]:
    """One for each round: four sampled steps, under one of three multipliers as a schedule might change them."""
    return [
        PrivacyEvent(
            "sampled_gaussian",
            {"noise_multiplier": MULTIPLIERS[number * len(MULTIPLIERS) // rounds], "sample_rate": RATE},
            STEPS,
            f"benchmark/round-{number}",
        )
        for number in range(rounds)
    ]


def fedmesh(rounds: int) -> tuple[Cost, float]:
    """Opens a ledger of as many rounds, which checks all of it, and reports what was spent: the cost, and epsilon."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "device.ledger"
        with FileLedger(path, epsilon=EPSILON, delta=DELTA) as ledger:
            for event in events(rounds):
                ledger.charge(event)
        spent([PrivacyEvent("sampled_gaussian", {"noise_multiplier": 9.0, "sample_rate": RATE})], DELTA)  # imports
        cpu, wall = time.process_time(), time.perf_counter()
        with FileLedger(path, epsilon=EPSILON, delta=DELTA) as ledger:
            epsilon = spent([charge.event for charge in ledger.charges], DELTA)
        return Cost(time.process_time() - cpu, time.perf_counter() - wall), epsilon


def one_by_one(rounds: int) -> tuple[Cost, float]:
    """dp-accounting's PLDAccountant, told every round's event in turn as a training loop would do it."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    def told(event: PrivacyEvent) -> dp_event.DpEvent:
        noise = dp_event.GaussianDpEvent(event.parameters["noise_multiplier"])
        return dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(RATE, noise), event.count)

    cpu, wall = time.process_time(), time.perf_counter()
    accountant = PLDAccountant()
    for event in events(rounds):
        accountant.compose(told(event))
    epsilon = float(accountant.get_epsilon(DELTA))
    return Cost(time.process_time() - cpu, time.perf_counter() - wall), epsilon
