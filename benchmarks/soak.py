"""A soak: many rounds on real processes and a real Mosquitto, random faults, and whether anything grows.

    python -m benchmarks.soak [--rounds 200] [--devices 8] [--seed 1] [--minutes M] [--in-process] [--json]
        [--plot FILE]

Each process is one of an operator: broker, coordinator, and a lite device's agent with its training process. Faults, by
the seed: kill -9, SIGTERM, SIGSTOP for a while, connections cut, the broker killed. Half of the devices and the
coordinator keep their process from the warm-up on (they are frozen and cut off, not killed), so that growth would show.

With ``--in-process`` all of it is one process (`benchmarks.soak_rig`): faster, and every moment can be struck.

*Flat*: the line fitted to a process's memory over its longest life behind the warm-up rises by less than 3 MB from end
to end, and the last quarter's median of open files is at most 2 over the first's.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmesh.client.identities import anchor_path
from fedmesh.privacy import Anchor
from fedmesh.privacy.statement import Statement
from fedmesh.testing.process_fleet import COORDINATOR, ProcessFleet

WARM_ROUNDS = 10
EVERY_S = 1.0
MOST_GROWTH_MB = 2.0
"""In the second half of a life: in the first, caches that have a bound fill."""
MOST_FILES = 2
STALL_S = 600.0
KINDS = ("kill", "kill", "restart", "freeze", "cut", "cut")


@dataclass
class Life:
    """One process: (seconds, MB resident, open files), since when it was seen."""

    pid: int
    samples: list[tuple[float, float, int]] = field(default_factory=list)


class Watch:
    """Looks at the memory and the open files of processes."""

    def __init__(self, fleet: ProcessFleet) -> None:
        self._fleet = fleet
        self.begun = time.monotonic()
        self.lives: dict[str, list[Life]] = {}

    async def look(self) -> None:
        """For ever."""
        while True:
            for name, pid in self._pids().items():
                sample = measured(pid)
                if sample is not None:
                    lives = self.lives.setdefault(name, [])
                    if not lives or lives[-1].pid != pid:
                        lives.append(Life(pid))
                    lives[-1].samples.append((time.monotonic() - self.begun, *sample))
            await asyncio.sleep(EVERY_S)

    def _pids(self) -> dict[str, int]:
        found = {"broker": self._fleet.fleet.broker.pid or 0}
        for name, process in self._fleet.processes.items():
            found[name] = process.pid
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            if name != COORDINATOR and children.exists():
                found.update({f"{name} training": int(pid) for pid in children.read_text().split()[:1]})
        return found

    def verdicts(self, warm_s: float) -> dict[str, dict[str, Any]]:
        """By process: its longest life behind the warm-up."""
        return {name: verdict(lives, warm_s) for name, lives in sorted(self.lives.items())}


def measured(pid: int) -> tuple[float, int] | None:
    """MB resident, open files; None: it is not there."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096 / 1e6, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (OSError, ValueError, IndexError):
        return None


def verdict(lives: Sequence[Life], warm_s: float) -> dict[str, Any]:
    """Whether a process is flat; None where no life of it was long enough to say."""
    cut = [[sample for sample in life.samples if sample[0] >= warm_s] for life in lives]
    longest = max(cut, key=len)
    told: dict[str, Any] = {"lives": len(lives), "samples": len(longest), "flat": None}
    if len(longest) < 20:
        return told
    if len(cut[0]) != len(longest):
        longest = longest[len(longest) // 5 :]  # it began behind the warm-up: it has one of its own
    times, memory, files = (np.array(column) for column in zip(*longest, strict=True))
    half, quarter = len(times) // 2, max(1, len(files) // 4)
    slope = float(np.polyfit(times[half:], memory[half:], 1)[0])
    growth, more = slope * (times[-1] - times[half]), float(np.median(files[-quarter:]) - np.median(files[:quarter]))
    told |= {
        "seconds": round(float(times[-1] - times[0])),
        "mb_first": round(float(np.median(memory[:quarter])), 1),
        "mb_last": round(float(np.median(memory[-quarter:])), 1),
        "mb_growth": round(growth, 2),
        "files_first": int(np.median(files[:quarter])),
        "files_last": int(np.median(files[-quarter:])),
        "flat": bool(growth < MOST_GROWTH_MB and more <= MOST_FILES),
    }
    return told


class Trouble:
    """Faults at random, one at a time."""

    def __init__(self, fleet: ProcessFleet, seed: int) -> None:
        self._fleet, self._chance = fleet, random.Random(seed)
        half = len(fleet.devices) // 2
        self.mortal, self.steady = fleet.devices[half:], fleet.devices[:half]
        self.made: Counter[str] = Counter()

    async def make(self) -> None:
        """For ever: a fault, and a while without one."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 6.0))
            await self._one()

    async def _one(self) -> None:
        chance = self._chance
        draw = chance.random()
        if draw < 0.05:
            await self._broker()
        elif draw < 0.15:
            kind = chance.choice(("freeze", "cut"))
            await self._strike(COORDINATOR, kind)
        else:
            name = chance.choice(self._fleet.devices)
            kind = chance.choice(KINDS if name in self.mortal else ("freeze", "cut"))
            await self._strike(name, kind)

    async def _broker(self) -> None:
        self.made["broker kill"] += 1
        broker = self._fleet.fleet.broker
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(self._chance.uniform(0.0, 2.0))
        await asyncio.to_thread(broker.start)

    async def _strike(self, name: str, kind: str) -> None:
        who = COORDINATOR if name == COORDINATOR else "device"
        self.made[f"{who} {kind}"] += 1
        match kind:
            case "kill" | "restart":
                await self._fleet.kill(name, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                await asyncio.sleep(self._chance.uniform(0.0, 3.0))
                self._fleet.start(name)
            case "freeze":
                await self._fleet.freeze(name, self._chance.uniform(0.1, 10.0))
            case "cut":
                await self._fleet.cut(name, self._chance.uniform(0.0, 5.0))

    async def kill_coordinator(self) -> None:
        """Once, at the end of the warm-up."""
        self.made["coordinator kill"] += 1
        await self._fleet.kill(COORDINATOR)
        self._fleet.start(COORDINATOR)


async def soak(fleet: ProcessFleet, rounds: int, seed: int, most_s: float) -> dict[str, Any]:
    """Runs it until so many rounds are committed, or it took `most_s`."""
    async with fleet:
        fleet.start()
        watch, trouble = Watch(fleet), Trouble(fleet, seed)
        looking, warm_s = asyncio.ensure_future(watch.look()), 0.0
        troubling: asyncio.Task[None] | None = None
        done, moved, stalled = 0, time.monotonic(), False
        try:
            while done < rounds and time.monotonic() - watch.begun < most_s and not stalled:
                await asyncio.sleep(0.2)
                if (now := len({event["round"] for event in fleet.finished()})) > done:
                    done, moved = now, time.monotonic()
                    print(f"\rround {done}/{rounds}", end="", file=sys.stderr, flush=True)
                if done >= min(WARM_ROUNDS, rounds // 2) and troubling is None:
                    await trouble.kill_coordinator()
                    warm_s = time.monotonic() - watch.begun + 20.0
                    troubling = asyncio.ensure_future(trouble.make())
                if troubling is not None and troubling.done():
                    troubling.result()
                stalled = time.monotonic() - moved > STALL_S
        finally:
            for task in (looking, troubling):
                if task is not None:
                    task.cancel()
            await asyncio.gather(looking, *filter(None, [troubling]), return_exceptions=True)
            print(file=sys.stderr)
        took_s = time.monotonic() - watch.begun
        ended = await stopped(fleet)
        found = fleet.finished()
        return {
            "rounds": done,
            "stalled": stalled,
            "failed": sum(event["failed"] is not None for event in found),
            "survivors": round(statistics.mean(event["survivors"] for event in found), 2) if found else 0.0,
            "seconds": round(took_s),
            "faults": dict(sorted(trouble.made.items())),
            "exit_codes": ended,
            "ledgers": ledgers(fleet),
            "processes": watch.verdicts(warm_s),
            "series": {name: [life.samples for life in lives] for name, lives in watch.lives.items()},
        }


async def stopped(fleet: ProcessFleet) -> dict[str, int]:
    """Ends everybody by SIGTERM: exit codes."""
    for name in fleet.names:  # one that is frozen hears nothing
        if fleet.processes[name].poll() is None:
            fleet.processes[name].send_signal(signal.SIGCONT)
    for name in fleet.names:
        if fleet.processes[name].poll() is None:
            await fleet.kill(name, signal.SIGTERM)
    return {name: int(fleet.processes[name].returncode) for name in fleet.names}


def ledgers(fleet: ProcessFleet) -> dict[str, Any]:
    """Verifies every device's ledger against its anchor. Raises: LedgerError."""
    charges = {}
    for name in fleet.devices:
        statement = Statement(fleet.state(name) / "ledgers" / f"{name}.ledger")
        statement.check_contains(Anchor(anchor_path(fleet.folder / "mesh" / name, name)).heads()["example"])
        charges[name] = statement.whole().charges
    return {"verified": len(charges), "charges": charges}


def show(told: Mapping[str, Any]) -> None:
    """A table."""
    print(
        f"{told['rounds']} rounds in {told['seconds']} s, {told['failed']} failed, {told['survivors']} survivors each"
    )
    print("faults: " + ", ".join(f"{kind} {count}" for kind, count in told["faults"].items()))
    print(f"ledgers verified: {told['ledgers']['verified']}; charges {sorted(told['ledgers']['charges'].values())}")
    print(f"{'process':22} {'lives':>5} {'seconds':>8} {'MB first':>9} {'last':>7} {'growth':>7} {'files':>9}  flat")
    for name, row in told["processes"].items():
        if row["flat"] is None:
            print(f"{name:22} {row['lives']:5}   no life of it was long enough")
            continue
        files = f"{row['files_first']} -> {row['files_last']}"
        memory = f"{row['mb_first']:9} {row['mb_last']:7} {row['mb_growth']:7}"
        flat = "yes" if row["flat"] else "NO"
        print(f"{name:22} {row['lives']:5} {row['seconds']:8} {memory} {files:>9}  {flat}")


def plot(told: Mapping[str, Any], path: Path) -> None:
    """Memory and open files over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 7), sharex=True)
    for name, lives in told["series"].items():
        color = None
        for samples in lives:
            times, memory, files = zip(*samples, strict=True)
            (line,) = above.plot(times, memory, color=color, label=None if color else name, linewidth=0.8)
            color = line.get_color()
            below.plot(times, files, color=color, linewidth=0.8)
    above.set_ylabel("MB resident")
    below.set_ylabel("open files")
    below.set_xlabel("seconds")
    above.legend(fontsize=5, ncols=3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Exit code 1: it stalled, something grew, or a process ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=120.0, help="ends earlier, with what there is")
    parser.add_argument("--json", action="store_true", help="print JSON, the series among it")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--in-process", action="store_true", help="all in one process, over a broker in memory")
    options = parser.parse_args()
    if options.devices < 5:
        parser.error("--devices: at least 5, of whom a secure sum of four can lose one")
    if options.in_process:
        from benchmarks.soak_rig import soak as soak_rig

        told = soak_rig(options.rounds, options.devices, options.seed, 60 * options.minutes)
    else:
        told = soak_processes(options)
    if options.json:
        print(json.dumps(told))
    else:
        show(told)
    if options.plot:
        plot(told, options.plot)
    bad = told["stalled"] or any(told["exit_codes"].values())
    sys.exit(1 if bad or any(row["flat"] is False for row in told["processes"].values()) else 0)


def soak_processes(options: argparse.Namespace) -> dict[str, Any]:
    """As real processes, in a folder that goes."""
    with tempfile.TemporaryDirectory() as folder:
        # Twice as many are planned for: a training that was cut off is paid for, and its round's successor, too.
        fleet = ProcessFleet(Path(folder), devices=options.devices, rounds=2 * options.rounds, deadline_s=120.0)
        return asyncio.run(soak(fleet, options.rounds, options.seed, 60 * options.minutes))


if __name__ == "__main__":
    main()
