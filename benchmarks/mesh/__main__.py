"""A mesh without a server: messages against gRPC, failures, a model's way, idle members, rounds against a fleet's.

    python -m benchmarks.mesh [--only messages failures delivery idle rounds] [--quiet SECONDS] [--json]

All with mutual TLS 1.3, in real processes. Each part is a command of its own too (``python -m benchmarks.mesh.idle
--help``), where its size can be set. ``delivery`` needs root and iproute2 to be what it says, ``rounds`` Mosquitto. It
takes twelve minutes on an idle machine.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.mesh import delivery, failures, idle, messages, rounds

Part = tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], list[str]]]
PARTS: dict[str, Part] = {
    "messages": (messages.compare, messages.lines),
    "failures": (failures.measure, failures.lines),
    "delivery": (delivery.measure, delivery.lines),
    "idle": (idle.measure, idle.lines),
    "rounds": (rounds.compare, rounds.lines),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what people read, part by part, or JSON at the end."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.mesh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quiet", type=float, default=60.0, help="how long nothing is done to count false accusations")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args(arguments)
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    for part in told.only:
        measure, lines = PARTS[part]
        began = os.getloadavg()[0]
        found = measure(quiet_s=told.quiet) if part == "failures" else measure()
        figures[part] = {"load": began, **found}
        if not told.json:
            print(f"{part}, load {began:.1f} on {figures['cores']} cores", *lines(found), "", sep="\n", flush=True)
    if told.json:
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
