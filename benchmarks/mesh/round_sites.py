"""The same rounds by a coordinator over MQTT and in a mesh: real processes of an operator's commands, in a folder.

    python -m benchmarks.mesh.round_sites fleet|mesh [--devices 6] [--rounds 6]

Real digits, the same part of them for each device, secure sums, privacy; each round's model is exported, compared and
signed, by the coordinator or by the first member, and nobody installs it. Prints JSON: `Watched`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from benchmarks.mesh.members import names_of, until, wait_for_all, wait_for_start
from fedmesh.registry.founding import create
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.testing.mesh_peers import MeshPeers

__all__ = ["SITES", "Fleet", "Mesh", "Site", "Watched", "descendants_s", "watch"]

TASK = "digits"
_PATIENCE_S = 900.0


class Site(Protocol):
    """Devices that have begun a run."""

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """Round -> what was told when it was over."""
        ...

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        """Round -> step of secure aggregation -> when it began; of the last attempt."""
        ...

    @property
    def said(self) -> str:
        """For who waits in vain."""
        ...


@dataclass(frozen=True, slots=True)
class Watched:
    """Rounds behind the first, in which processes start.

    Attributes:
        first_s: from the command that begins the run to the end of the first round.
        round_s: of each, from the end of the one before. steps_s: of each, step -> seconds, in order.
        processor_s: of all processes, a round. bytes, packets: over the loopback, a round.
        repeated: rounds that did not do with one attempt, or have not everybody in the sum.
    """

    first_s: float
    round_s: list[float]
    steps_s: list[dict[str, float]]
    processor_s: float
    bytes: int
    packets: int
    repeated: int


class Fleet:
    """A broker, a coordinator, and devices."""

    def __init__(self, folder: Path, devices: int, rounds: int, stack: ExitStack) -> None:
        self._folder, self._events = folder, folder / "events.jsonl"
        self._coordinator, self._devices = "coordinator", names_of(devices)
        fleet = stack.enter_context(LoopbackFleet(folder / "mesh"))
        for name in (self._coordinator, *self._devices):
            fleet.membership(name)
        fleet.spread()
        create(folder / "repository")
        (folder / f"{TASK}.toml").write_text(_scenario(devices, rounds))
        port = fleet.broker.port
        (folder / "coordinator.toml").write_text(_COORDINATOR.format(port=port, devices=devices))
        for number, name in enumerate(self._devices):
            data = _DATA.format(number=number, devices=devices)
            (folder / f"{name}.toml").write_text(_DEVICE.format(name=name, port=port) + data)
        self._stack = stack
        for name in self._devices:
            self._start(name, "client")

    def begin(self) -> None:
        """The run."""
        self._start(self._coordinator, "coordinator", "--json-events", str(self._events))

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """See `Site`."""
        return {fact["round"]: {**fact, "in_sum": fact["survivors"]} for fact in self._told("RoundFinished")}

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        """See `Site`."""
        return _by_round(self._told("StageStarted"))

    @property
    def said(self) -> str:
        """See `Site`."""
        return "\n".join((self._folder / f"{name}.log").read_text()[-1_000:] for name in ("coordinator", "member-0"))

    def _told(self, event: str) -> list[dict[str, Any]]:
        whole = self._events.read_text().rpartition("\n")[0] if self._events.exists() else ""
        return [fact for fact in map(json.loads, whole.splitlines()) if fact["event"] == event]

    def _start(self, name: str, verb: str, *more: str) -> None:
        command = [sys.executable, "-m", "fedmesh", verb, "run", str(self._folder / f"{name}.toml"), *more]
        with (self._folder / f"{name}.log").open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)


class Mesh:
    """Members; the first begins the run, and signs what comes of it."""

    def __init__(self, folder: Path, devices: int, rounds: int, stack: ExitStack) -> None:
        self._names = names_of(devices)
        self._peers = peers = stack.enter_context(MeshPeers(folder, *self._names))
        peers.issuer.grant(self._names[0], "runs")
        peers.spread(self._names)
        create(folder / "repository")
        (folder / f"{TASK}.toml").write_text(_scenario(devices, rounds))
        for number, name in enumerate(self._names):
            publishes = "" if number else '[publish]\nfolder = "repository"\n'
            data = _DATA.format(number=number, devices=devices)
            peers.configure(name, more=f"[limits]\nnice = 0\n{publishes}{data}")
        peers.start()
        wait_for_start(peers, self._names)
        wait_for_all(peers, self._names)

    def begin(self) -> None:
        """The run."""
        words = ["run", "start", f"{TASK}.toml", "--mesh", "--config", f"{self._names[0]}.toml"]
        command, here = [sys.executable, "-m", "fedmesh", *words], self._peers.folder
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the run was not begun:\n{done.stdout}{done.stderr}")

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """See `Site`. A round is over when the first has its certificate, which is who coordinated it."""
        told = [fact for name in self._names for fact in self._peers.told(name, "RoundCertified")]
        return {
            fact["round"]: {**fact, "in_sum": 0 if fact["attempt"] else fact["survivors"]}
            for fact in sorted(told, key=lambda fact: fact["time"], reverse=True)
        }

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        """See `Site`."""
        return _by_round([fact for name in self._names for fact in self._peers.told(name, "StageStarted")])

    @property
    def said(self) -> str:
        """See `Site`."""
        return "\n".join(self._peers.said(name, 500) for name in self._names)


SITES: dict[str, Callable[[Path, int, int, ExitStack], Fleet | Mesh]] = {"fleet": Fleet, "mesh": Mesh}


def watch(site: Site, *, devices: int, rounds: int, begun: float) -> Watched:
    """Waits until `rounds` are over. `begun`: when the run was, in Unix seconds. Raises: SystemExit: they are not."""
    spent = []
    for number in (1, rounds):

        def is_over(number: int = number) -> bool:
            return number in site.finished

        until(is_over, within_s=_PATIENCE_S, about=lambda: f"{len(site.finished)} of {rounds} rounds:\n{site.said}")
        spent.append((descendants_s(os.getpid()), *_traffic()))
    finished, steps = site.finished, site.steps
    ends = [finished[number]["time"] for number in range(1, rounds + 1)]
    processor, size, packets = ((after - before) / (rounds - 1) for before, after in zip(*spent, strict=True))
    behind = range(2, rounds + 1)
    return Watched(
        first_s=round(ends[0] - begun, 2),
        round_s=[round(ends[number - 1] - ends[number - 2], 3) for number in behind],
        steps_s=[_steps_s(steps.get(number, {}), ends[number - 2], ends[number - 1]) for number in behind],
        processor_s=round(processor, 2),
        bytes=round(size),
        packets=round(packets),
        repeated=sum(finished[number]["in_sum"] < devices for number in behind),
    )


def descendants_s(pid: int) -> float:
    """Processor seconds of a process's children and theirs, with those who have ended; its own are not counted."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    found, rest = 0, [child for child, parent in parents.items() if parent == pid]
    while rest:
        found += ticks[at := rest.pop()]
        rest += [child for child, parent in parents.items() if parent == at]
    return found / os.sysconf("SC_CLK_TCK")


def _by_round(told: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for fact in sorted(told, key=lambda fact: fact["time"]):
        found.setdefault(fact["round"], {})[fact["stage"]] = fact["time"]
    return found


def _steps_s(began: dict[str, float], start: float, end: float) -> dict[str, float]:
    """Seconds of each step, of what came before the first (``begin``), and of what the last one ends with."""
    names, times = ["begin", *began], [start, *began.values(), end]
    return {name: round(times[at + 1] - times[at], 3) for at, name in enumerate(names)}


def _traffic() -> tuple[int, int]:
    """Bytes and packets that went over this process's loopback."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    sent = next(line.split(":")[1].split() for line in lines if line.strip().startswith("lo:"))[8:]
    return int(sent[0]), int(sent[1])


def _scenario(devices: int, rounds: int) -> str:
    return _SCENARIO.format(devices=devices, rounds=rounds)


_SCENARIO = f"""
name = "{TASK}"
rounds = {{rounds}}
data = {{{{ name = "digits", public_fraction = 0.1 }}}}
partition = {{{{ kind = "iid", clients = {{devices}} }}}}
model = {{{{ name = "digits_cnn", pretrain_epochs = 5, pretrain_learning_rate = 0.02 }}}}
client = {{{{ name = "vision", learning_rate = 0.15 }}}}
secure_aggregation = {{{{ enabled = true }}}}

[privacy]
enabled = true
epsilon = 8.0
sample_rate = 0.125
steps = 4
expected_batch = 32.0
"""
_COORDINATOR = f"""
[identity]
folder = "mesh/coordinator"
[broker]
host = "localhost"
port = {{port}}
[data]
folder = "data"
[registry]
folder = "repository"
[[task]]
scenario = "{TASK}.toml"
round = {{{{ min_devices = {{devices}}, deadline_s = 300.0 }}}}
"""
_DEVICE = """
tier = "full"
limits.nice = 0
[identity]
folder = "mesh/{name}"
[broker]
host = "localhost"
port = {port}
[state]
folder = "state-{name}"
"""
_DATA = '[data]\nkind = "dataset"\nname = "digits"\npartition = {number}\nof = {devices}\n'


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", choices=list(SITES))
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=6)
    told = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        site = SITES[told.site](folder, told.devices, told.rounds, stack)
        begun = time.time()
        site.begin()
        print(json.dumps(asdict(watch(site, devices=told.devices, rounds=told.rounds, begun=begun))))


if __name__ == "__main__":
    main()
