"""A real fleet on loopback: messages, empty rounds, idle memory, and what a coordinator takes, at a real Mosquitto.

    python -m benchmarks.mqtt [--only messages rounds memory load] [--json]

Mutual TLS 1.3 throughout. Each part is a command of its own too: benchmarks.mqtt_messages, fleet_rounds (against
Flower's SuperLink and SuperNodes in the same run, where they are installed), fleet_memory and fleet_load. It takes ten
minutes on an idle machine.
"""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from benchmarks import fleet_load, fleet_memory, fleet_rounds, mqtt_messages

PARAMETERS, ROUNDS = 10_000, 3


def messages() -> dict[str, Any]:
    """Latency and throughput, against paho alone, as it comes and without Nagle's algorithm."""
    return mqtt_messages.compare(50, 5)


def rounds() -> dict[str, Any]:
    """Two real agents, against Flower's."""
    return fleet_rounds.versus_flower()


def memory() -> dict[str, Any]:
    """MiB of an idle agent, by tier."""
    return fleet_memory.measure()


def load() -> dict[str, Any]:
    """Of the coordinator, by the number of devices."""
    return {
        str(devices): dict(fleet_load.measure(devices, parameters=PARAMETERS, rounds=ROUNDS))
        for devices in fleet_load.DEVICES
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "messages": messages,
    "rounds": rounds,
    "memory": memory,
    "load": load,
}


def lines(part: str, found: dict[str, Any]) -> list[str]:
    """The figures of a part, for people."""
    match part:
        case "messages":
            told = [_message_line(kind, found[kind], found["megabytes"]) for kind in mqtt_messages.KINDS]
            return [*told, _ratio_line(found["ratio"])]
        case "rounds":
            ours, peer = found["fedmesh"], found.get("flower")
            told = [f"fedmesh: an empty round of 2 devices {ours['p50_s'] * 1e3:.0f} ms (p50), goal 100 ms"]
            return told if peer is None else [*told, f"Flower: {peer['p50_s']:.1f} s, {found['ratio']}x as long"]
        case "memory":
            return [
                f"{label}: {mb['rss']} MB RSS (goal {fleet_memory.GOALS_MB[label]}), {mb['pss']} PSS, {mb['uss']} USS"
                for label, mb in found.items()
            ]
    return [
        f"{devices} devices, {kind}: {row['processor_s_per_round']:.3f} s of processor time a round, "
        f"{row['median_s']:.2f} s, {row['memory_mb']['rss']} MB RSS"
        for devices, rows in found.items()
        for kind, row in rows.items()
    ]


def _message_line(label: str, row: dict[str, Any], megabytes: int) -> str:
    rates = ", ".join("stalled" if rate is None else f"{rate:.0f}" for rate in row["mb_per_s"])
    return (
        f"{label}: 1 KB there and back {row['p50_ms']:.2f} ms (p50), {row['processor_ms_per_request']} ms of processor "
        f"time; {megabytes} MB: {rates} MB/s, {row['processor_ms_per_mb']} ms a MB"
    )


def _ratio_line(ratio: dict[str, float | None]) -> str:
    told = {name: "unknown" if value is None else f"{value}x" for name, value in ratio.items()}
    return (
        f"fedmesh to nodelay (paho alone, TCP_NODELAY at both ends): 1 KB there and back {told['p50_ms']} as long, "
        f"{told['processor_ms_per_request']} the processor time; MB/s {told['mb_per_s']}, processor time a MB "
        f"{told['processor_ms_per_mb']}"
    )


def main() -> None:
    """Prints what people read, part by part, or JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    for part in arguments.only:
        began = os.getloadavg()[0]
        found = PARTS[part]()
        figures[part] = {"load": began, **found}
        if not arguments.json:
            print(f"{part}, load {began:.1f} on {figures['cores']} cores", *lines(part, found), sep="\n  ", flush=True)
    if arguments.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
