"""Secure aggregation: fedmesh against Flower's SecAgg+ on the same vectors, and against the machine's own limits.

    python -m benchmarks.secagg [--json]

100 devices, 1M int8 parameters, weight 1 (a ring of 15 bits), 30 devices lost after the share step; both sums are
checked. Figures are the best of all devices or of several repeats, in processor time, because other work on the machine
stretches the wall clock; ratios and `--json` have both. fedmesh is on the complete graph, signs and verifies
everything, and is timed from message to message. Flower is timed as its stage functions alone, twice. At degree 20 its
whole workflow runs; a client masks with a fifth of the peers there, and a random 30 of 100 devices are a loss that it
almost never survives. On the complete graph, the like-for-like comparison, its server is counted together from its
measured operations.
"""

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from benchmarks.secagg_peers import fedmesh_secagg, flower_complete, flower_secagg, machine
from benchmarks.secagg_peers.clocks import Cost
from benchmarks.secagg_peers.setting import Setting
from fedmesh.machine import cores
from fedmesh.secagg import SessionHeader
from fedmesh.secagg.ring import Ring

DEVICES, DROPOUTS, PARAMETERS = 100, 30, 1_000_000
DEGREE, DEGREE_THRESHOLD = 20, 14  # of Flower: two thirds of 21, as fedmesh's is of everybody
LARGE = 11_700_000  # ResNet-18
COHORTS = (25, 50, 100)
REPEATS = 3  # of fedmesh's session; Flower's server is measured once, it takes long enough
TARGETS = {"mask": 8, "share": 50, "unmask": 40}


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long another takes."""

    cpu: float
    wall: float

    @classmethod
    def of(cls, other: Cost, one: Cost) -> Self:
        return cls(other.cpu_s / one.cpu_s, other.wall_s / one.wall_s)


@dataclass(frozen=True, slots=True)
class Row:
    """One operation of the three contenders."""

    operation: str
    fedmesh: Cost
    degree: Cost
    complete: Cost

    @property
    def ratios(self) -> tuple[Ratio, Ratio]:
        """How many times as long Flower takes: at degree 20, and on the complete graph."""
        return Ratio.of(self.degree, self.fedmesh), Ratio.of(self.complete, self.fedmesh)


def setting(devices: int, *, neighbours: int | None = None, threshold: int | None = None) -> Setting:
    """The common work; the complete graph and fedmesh's threshold unless said otherwise."""
    return Setting(
        devices=devices,
        dropouts=devices * DROPOUTS // DEVICES,
        neighbours=neighbours or devices - 1,
        threshold=threshold or SessionHeader.threshold_for(devices),
        ring_bits=Ring.bits_for(DEVICES, 1, 8),
        length=PARAMETERS,
    )


def measure() -> dict[str, Any]:
    """All figures, by name."""
    _say("the machine")
    limits = machine.limits()
    expansions = {dtype.__name__: machine.expansion(LARGE, dtype) for dtype in (np.uint16, np.uint32)}
    sessions = {}
    for devices in COHORTS:
        _say(f"fedmesh, {devices} devices")
        sessions[devices] = fedmesh_secagg.measure(setting(devices))
    ours = sessions[DEVICES]
    for _ in range(REPEATS - 1):
        ours = ours.best_with(fedmesh_secagg.measure(setting(DEVICES)))
    threaded = fedmesh_secagg.measure(setting(DEVICES), threads=cores())
    _say("Flower, complete graph")
    complete = flower_complete.measure(setting(DEVICES))
    _say(f"Flower, degree {DEGREE}")
    degree = flower_secagg.measure(setting(DEVICES, neighbours=DEGREE, threshold=DEGREE_THRESHOLD))
    rows = [
        Row("share", ours.device["share"], degree.share, complete.share),
        Row("mask", ours.device["mask"], degree.mask, complete.mask),
        Row("unmask", ours.aggregator["unmask"], degree.unmask, complete.unmask),
    ]
    keystream = DEVICES * (PARAMETERS + 1) * 2
    return {
        "limits": limits,
        "expansions": expansions,
        "rows": rows,
        "mask_floor_s": limits.keystream_s(keystream),
        "session": ours,
        "threads": cores(),
        "threaded_unmask": threaded.aggregator["unmask"],
        "ring_bits": setting(DEVICES).ring_bits,
        "wire_bits": ours.bytes_up["mask"] * 8 / PARAMETERS,
        "flower_wire_bits": degree.bytes_per_parameter * 8,
        "peak_bytes": {devices: session.peak_bytes for devices, session in sessions.items()},
    }


def plain(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures as JSON can hold them."""
    ratios = {
        row.operation: {graph: asdict(ratio) for graph, ratio in zip(("degree", "complete"), row.ratios, strict=True)}
        for row in figures["rows"]
    }
    expansions = {
        ring: {"fedmesh": asdict(ours), "aes_ctr": asdict(floor)}
        for ring, (ours, floor) in figures["expansions"].items()
    }
    return {
        **figures,
        "limits": asdict(figures["limits"]),
        "expansions": expansions,
        "rows": [asdict(row) for row in figures["rows"]],
        "ratios": ratios,
        "session": asdict(figures["session"]),
        "threaded_unmask": asdict(figures["threaded_unmask"]),
        "load": os.getloadavg()[0],
    }


def show(figures: dict[str, Any]) -> None:
    """Tables."""
    limits, session, bits = figures["limits"], figures["session"], figures["ring_bits"]
    print(f"{DEVICES} devices, {PARAMETERS:,} int8 parameters, {bits} bits, {DROPOUTS} lost after sharing")
    print("ms of processor time; in brackets how many times fedmesh's, in processor and in wall time\n")
    print(f"{'':26}{'fedmesh':>9}{f'Flower, degree {DEGREE}':>28}{'Flower, complete graph':>28}{'target':>9}")
    for row in figures["rows"]:
        cells = [_against(cost, ratio) for cost, ratio in zip((row.degree, row.complete), row.ratios, strict=True)]
        name = "server, unmask" if row.operation == "unmask" else f"client, {row.operation}"
        target = f"{TARGETS[row.operation]}x"
        print(f"{name:26}{_ms(row.fedmesh):>9}{cells[0]:>28}{cells[1]:>28}{target:>9}")
    wire, theirs = figures["wire_bits"], figures["flower_wire_bits"]
    print(f"{'wire, bits a parameter':26}{wire:>9.3f}{theirs:>28.3f}{theirs:>28.3f}{bits * 1.02:>9.2f}")
    unmask = next(row for row in figures["rows"] if row.operation == "unmask")
    wall = figures["threaded_unmask"].wall_s
    print(f"server, unmask, {figures['threads']} threads: {wall * 1e3:.0f} ms of wall time,", end=" ")
    print(f"{unmask.degree.wall_s / wall:.1f}x and {unmask.complete.wall_s / wall:.1f}x")
    print("~ counted together from measured operations; the rest was run.\n")

    floor = figures["mask_floor_s"]
    mask = next(row.fedmesh for row in figures["rows"] if row.operation == "mask")
    print(f"AES-128-CTR {limits.aes_ctr / 1e9:.1f} GB/s, GCM {limits.aes_gcm / 1e9:.1f}; additions of uint16", end=" ")
    print(f"{limits.add_in_cache / 1e9:.0f} GB/s in cache, {limits.add_in_memory / 1e9:.0f} in memory; one thread")
    print(f"{'':34}{'fedmesh':>9}{'AES-CTR':>10}{'times':>8}{'target':>9}")
    print(
        f"{f'client, mask ({DEVICES} masks)':34}{_ms(mask):>9}{floor * 1e3:>10.1f}{mask.cpu_s / floor:>7.2f}x{'2x':>9}"
    )
    for ring, (ours, theirs) in figures["expansions"].items():
        ratio = ours.cpu_s / theirs.cpu_s
        print(f"{f'one mask, {LARGE / 1e6:.1f}M {ring}':34}{_ms(ours):>9}{_ms(theirs):>10}{ratio:>7.2f}x{'2x':>9}")

    print(f"\n{'step':12}{'device ms':>11}{'aggregator ms':>15}{'bytes up':>12}{'bytes down':>12}")
    for step, cost in session.device.items():
        down = session.bytes_down.get(step, 0)
        print(f"{step:12}{_ms(cost):>11}{_ms(session.aggregator[step]):>15}{session.bytes_up[step]:>12,}{down:>12,}")
    peaks = ", ".join(f"{size / 1e6:.0f} MB with {devices}" for devices, size in figures["peak_bytes"].items())
    print(f"\nThe aggregator's process grows by at most {peaks} devices.")


def _against(cost: Cost, ratio: Ratio) -> str:
    return f"{'~' if cost.extrapolated else ''}{_ms(cost)} {f'({ratio.cpu:.1f}x, {ratio.wall:.1f}x)':>18}"


def _ms(cost: Cost) -> str:
    milliseconds = cost.cpu_s * 1e3
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    """Prints tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    figures = measure()
    if arguments.json:
        print(json.dumps(plain(figures), indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    main()
