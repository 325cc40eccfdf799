"""Messages between two processes on loopback, mutual TLS 1.3: `fedmesh.transport.peers` against grpc.aio.

    python -m benchmarks.mesh.messages [--turns N] [--requests N] [--megabytes N ...]

Each contender has two processes; all run side by side and take turns, so that what else the machine does hits all of
them. gRPC has no acknowledgement by hash, no resuming, no de-duplication and nothing that outlives a connection.
*grpc* is a call for each request; *grpc stream* writes requests into one call that stays open.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.fleet_site import processor_s
from benchmarks.mesh.contenders import ANSWERING, GRPC_CHUNK, SMALL_BYTES
from fedmesh.identity import Enrolment, Issuer, create_authority, open_issuer
from fedmesh.identity.servers import create_server

__all__ = ["GOALS", "KINDS", "compare", "lines"]

KINDS = tuple(ANSWERING)
GOALS = {"p50_ms": 0.5, "mb_per_s": 0.8}
"""Against grpc: at most, of the first, at least of the second."""
_MB = 1_000_000


class Contender:
    """Both ends of one kind, connected.

    Args:
        folder: of a mesh of `identities`.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        shared = {"folder": str(folder / "server"), "root": str(folder / "ca" / "root.pem"), "other": "server"}
        self._answering = _started(kind, "answering", {**shared, "tls": str(next((folder / "server").glob("tls*")))})
        port = int(_line(self._answering))
        own = {"folder": str(folder / "anna"), "tls": str(next((folder / "anna").glob("tls*"))), "port": port}
        self._asking = _started(kind, "asking", {**shared, **own})
        _line(self._asking)
        self.pids = [self._answering.pid, self._asking.pid]

    def send(self, size: int, times: int) -> tuple[list[float], float]:
        """Seconds of each of `times` messages of `size` bytes, and the processor seconds of both ends."""
        used = processor_s(self.pids)
        assert self._asking.stdin is not None, "a pipe"
        self._asking.stdin.write(json.dumps({"bytes": size, "times": times}) + "\n")
        self._asking.stdin.flush()
        took: list[float] = json.loads(_line(self._asking))
        return took, processor_s(self.pids) - used

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._asking, self._answering):
            process.kill()
            process.communicate()


def identities(folder: Path) -> None:
    """A mesh: ``server``, whose certificate has a host name too, as gRPC wants it, and ``anna``."""
    now = time.time()
    create_authority(folder / "ca", "home", now)
    issuer: Issuer = open_issuer(folder / "ca")
    members = [create_server(issuer, "server", ("localhost",), folder / "server", now)]
    token = issuer.token("anna", now, ttl_s=3_600)
    enrolment = Enrolment.begin(folder / "anna", token)
    hello = issuer.hello()
    members.append(
        enrolment.finish(issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, now), now)
    )
    roster, revocations = issuer.lists(now)
    for member in members:
        member.accept(now, roster=roster, revocations=revocations)


def compare(*, turns: int = 5, requests: int = 500, megabytes: tuple[int, ...] = (8, 64)) -> dict[str, Any]:
    """All figures, and the ratios of ours to gRPC's, of medians."""
    from contextlib import ExitStack

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        identities(Path(name))
        contenders = [stack.enter_context(Contender(kind, Path(name))) for kind in KINDS]
        small = _in_turn(contenders, SMALL_BYTES, requests, turns)
        long = {size: _in_turn(contenders[:2], size * _MB, 1, turns) for size in megabytes}
    found: dict[str, Any] = {}
    for kind in KINDS:
        took, used = small[kind]
        found[kind] = {
            "p50_ms": round(statistics.median(took) * 1e3, 3),
            "p99_ms": round(statistics.quantiles(took, n=100)[98] * 1e3, 3),
            "processor_ms_per_request": round(used * 1e3 / len(took), 3),
            "mb_per_s": {
                str(size): [round(size / seconds, 1) for seconds in row[kind][0]]
                for size, row in long.items()
                if kind in row
            },
            "processor_ms_per_mb": {
                str(size): round(row[kind][1] * 1e3 / (size * turns), 2) for size, row in long.items() if kind in row
            },
        }
    return {"turns": turns, "requests": requests, "grpc_chunk_bytes": GRPC_CHUNK, **found, "ratio": _ratios(found)}


def _in_turn(contenders: list[Contender], size: int, times: int, turns: int) -> dict[str, tuple[list[float], float]]:
    """By kind, seconds of all messages, and processor seconds; one turn before is not counted."""
    for contender in contenders:
        contender.send(size, max(1, times // 10))
    took: dict[str, list[float]] = {contender.kind: [] for contender in contenders}
    used = dict.fromkeys(took, 0.0)
    for turn in range(turns):
        for contender in contenders if turn % 2 else contenders[::-1]:
            seconds, processor = contender.send(size, times)
            took[contender.kind] += seconds
            used[contender.kind] += processor
    return {kind: (took[kind], used[kind]) for kind in took}


def _ratios(found: dict[str, Any]) -> dict[str, Any]:
    ours, call, stream = (found[kind] for kind in KINDS)
    return {
        "p50_ms": round(ours["p50_ms"] / call["p50_ms"], 2),
        "p50_ms, grpc stream": round(ours["p50_ms"] / stream["p50_ms"], 2),
        "mb_per_s": {
            size: round(statistics.median(rates) / statistics.median(call["mb_per_s"][size]), 2)
            for size, rates in ours["mb_per_s"].items()
        },
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A table."""
    ratio, sizes = found["ratio"], list(found["fedmesh"]["mb_per_s"])
    told = ["| | fedmesh | grpc.aio | fedmesh is | goal | grpc.aio, one open stream | fedmesh is |", "|" + "---|" * 7]
    ours, call, stream = (found[kind] for kind in KINDS)
    told.append(
        f"| 1 KB there and back, p50 | {ours['p50_ms']} ms | {call['p50_ms']} ms | {ratio['p50_ms']}x "
        f"| at most {GOALS['p50_ms']}x | {stream['p50_ms']} ms | {ratio['p50_ms, grpc stream']}x |"
    )
    told.append(f"| p99 | {ours['p99_ms']} ms | {call['p99_ms']} ms | | | {stream['p99_ms']} ms | |")
    each = "processor_ms_per_request"
    told.append(f"| processor time of both ends | {ours[each]} ms | {call[each]} ms | | | {stream[each]} ms | |")
    for size in sizes:
        rates = [f"{statistics.median(row['mb_per_s'][size]):.0f} MB/s" for row in (ours, call)]
        told.append(
            f"| {size} MB, median of {found['turns']} | {rates[0]} | {rates[1]} | {ratio['mb_per_s'][size]}x "
            f"| at least {GOALS['mb_per_s']}x | | |"
        )
        used = [f"{row['processor_ms_per_mb'][size]} ms" for row in (ours, call)]
        told.append(f"| {size} MB, processor time of both ends a MB | {used[0]} | {used[1]} | | | | |")
    return told


def _started(kind: str, role: str, told: dict[str, Any]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.mesh.contenders", kind, role, json.dumps(told)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None, "a pipe"
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the benchmark ended with {process.wait()}")
    return line


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[8, 64])
    told = parser.parse_args()
    found = compare(turns=told.turns, requests=told.requests, megabytes=tuple(told.megabytes))
    print(json.dumps({"load": os.getloadavg()[0], "cores": os.cpu_count(), **found}, indent=2))


if __name__ == "__main__":
    main()
