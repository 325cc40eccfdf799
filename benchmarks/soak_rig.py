"""The soak in one process: the rig of the fault matrix, with faults at random moments of every third round or so."""

import asyncio
import importlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
EVERY_S = 1.0
STEPS = ("train", "sign", "unmask")
POINTS = {"device": ("arrived", "asked", "ran", "kept", "posted"), "coordinator": ("asking", "hearing")}


def faults(devices: int, rounds: int, seed: int) -> list[Any]:
    """One in every third round: most of a device, and of the coordinator and the broker now and then."""
    fault = importlib.import_module("faulty_site").Fault
    chance, found = random.Random(seed), []
    for number in range(3, rounds, 3):
        draw, step = chance.random(), chance.choice(STEPS)
        if draw < 0.8:
            kind, actor = chance.choice(("kill", "kill", "restart", "cut")), f"device-{chance.randrange(devices)}"
            point = chance.choice(POINTS["device"])
        else:
            actor = "coordinator" if draw < 0.9 else "broker"
            kind, point = chance.choice(("kill", "restart", "cut")), chance.choice(POINTS["coordinator"])
        found.append(fault(actor, kind, step, point, number, lasts_s=chance.uniform(0.0, 0.5)))
    return found


def soak(rounds: int, devices: int, seed: int, most_s: float) -> dict[str, Any]:
    """What `benchmarks.soak` tells of real processes, of one process. Raises: AssertionError: a promise was broken."""
    sys.path.insert(0, str(SUPPORT))
    fleet, checks = importlib.import_module("faulty_fleet"), importlib.import_module("fault_checks")

    from benchmarks.soak import Life, measured, verdict
    from fedmesh.events import RoundFinished

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder, life, over = Path(name), Life(0), threading.Event()
        # Twice as many are planned for: a training that was cut off is paid for, and its successor, too.
        site = fleet.Site(folder, devices, rounds, privacy={"epsilon": 16.0})
        planned = faults(devices, rounds, seed)
        begun = time.monotonic()
        marks: dict[int, float] = {}

        def look(rig: Any) -> None:
            while not over.wait(EVERY_S):
                sample = measured_here(measured)
                life.samples.append((time.monotonic() - begun, *sample))
                done = [event.round for event in rig.events(RoundFinished)]
                if done:
                    marks.setdefault(done[-1], time.monotonic() - begun)
                    print(f"\rround {done[-1]}/{rounds}", end="", file=sys.stderr, flush=True)

        async def main() -> Any:
            rig = fleet.Rig(site, site.copied(folder / "run"), tuple(planned), deadline_s=60.0)
            rig.keeps = (RoundFinished,)
            looking = threading.Thread(target=look, args=(rig,))
            looking.start()
            try:
                with suppress(TimeoutError):
                    await rig.play(most_s)
            finally:
                over.set()
                looking.join()
            return rig

        (folder / "run").mkdir()
        rig = asyncio.run(main())
        if rig.coordinator.result is not None:
            checks.check(rig)
        finished = rig.events(RoundFinished)
        warm_s = next((at for number, at in sorted(marks.items()) if number >= rounds // 10), 0.0)
        return {
            "rounds": len(finished),
            "checked": rig.coordinator.result is not None,
            "stalled": False,
            "failed": sum(event.failed is not None for event in finished),
            "survivors": round(float(np.mean([event.survivors for event in finished])), 2),
            "seconds": round(time.monotonic() - begun),
            "faults": dict(sorted(Counter(f"{f.actor.split('-')[0]} {f.kind}" for f in rig.struck).items())),
            "exit_codes": {},
            "ledgers": {
                "verified": devices,
                "charges": {d: sum(n for (name, _), n in rig.charged.items() if name == d) for d in rig.devices},
            },
            "processes": {"all in one": verdict([life], warm_s)},
            "series": {"all in one": [life.samples]},
        }


def measured_here(measured: Any) -> tuple[float, int]:
    """Of this process, when nothing waits to be collected."""
    import gc
    import os

    gc.collect()
    found = measured(os.getpid())
    assert found is not None
    return found[0], found[1]
