"""One session of fedmesh's state machines on the benchmark's vectors: the complete graph, all checked and signed.

Timed is all that a device does from a message to its answer: decoding, signatures, keys, shares, masks, packing.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.secagg_peers.aggregator_process import AggregatorProcess, Outgoing, Report
from benchmarks.secagg_peers.clocks import Cost, Samples
from benchmarks.secagg_peers.setting import Setting
from fedmesh.secagg import Identity, Participant, Policy, Roster, SessionHeader
from fedmesh.secagg.identity import verified

AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class Figures:
    """Costs by step, one device's and the whole aggregator's, and bytes of one device by step."""

    device: dict[str, Cost]
    aggregator: dict[str, Cost]
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    peak_bytes: int

    def best_with(self, other: "Figures") -> "Figures":
        """The lesser costs of two sessions, and the higher peak."""
        return replace(
            self,
            device={step: cost.least(other.device[step]) for step, cost in self.device.items()},
            aggregator={step: cost.least(other.aggregator[step]) for step, cost in self.aggregator.items()},
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


def measure(setting: Setting, *, threads: int = 1) -> Figures:
    """One session in which `setting.dropouts` devices are lost after the share step; its sum is checked.

    `threads`: of the aggregator.
    """
    names = tuple(f"device-{place}" for place in range(1, setting.devices + 1))
    identities = {name: Identity.generate() for name in (*names, AGGREGATOR)}
    roster = Roster({name: identity.public for name, identity in identities.items()})
    header = SessionHeader(
        task="benchmark",
        round=1,
        cohort=names,
        threshold=setting.threshold,
        min_cohort=setting.threshold,
        ring_bits=setting.ring_bits,
        length=setting.length,
    )
    fleet = _Fleet(setting, header, {name: Participant(name, identities[name], roster, Policy()) for name in names})
    with AggregatorProcess(header, identities[AGGREGATOR], roster, threads) as aggregator:
        outgoing = fleet.advertise(aggregator)
        for step in ("share", "mask", "sign", "unmask"):
            outgoing = fleet.answer(step, outgoing, aggregator)
        report = aggregator.report()
    _check(setting, report)
    return Figures(
        device={step: samples.best for step, samples in fleet.samples.items()},
        aggregator=report.steps,
        bytes_up=dict(fleet.bytes_up),
        bytes_down=dict(fleet.bytes_down),
        peak_bytes=report.peak_bytes,
    )


class _Fleet:
    """The devices, one after another in this process."""

    def __init__(self, setting: Setting, header: SessionHeader, devices: dict[str, Participant]) -> None:
        self._setting, self._header, self._devices = setting, header, devices
        self.samples: dict[str, Samples] = {}
        self.bytes_up: Counter[str] = Counter()
        self.bytes_down: Counter[str] = Counter()

    def advertise(self, aggregator: AggregatorProcess) -> Outgoing:
        """The first messages of all."""
        samples = self.samples.setdefault("advertise", Samples())
        outgoing: Outgoing = []
        for name, device in self._devices.items():
            with samples.timed():
                message = device.join(self._header)
            self.bytes_up["advertise"] = len(message)
            outgoing += aggregator.handle(name, message)
        return outgoing

    def answer(self, step: str, messages: Outgoing, aggregator: AggregatorProcess) -> Outgoing:
        """Everybody's answer to `messages`; who drops out is lost before the masked inputs."""
        samples = self.samples.setdefault(step, Samples())
        dropped = {f"device-{place}" for place in self._setting.dropped()}
        outgoing: Outgoing = []
        for name, message in messages:
            if name in dropped and step != "share":
                continue
            vector = self._setting.vector(int(name.removeprefix("device-"))) if step == "mask" else None
            verified.cache_clear()  # a device of its own has seen none of these signatures
            with samples.timed():
                if vector is not None:
                    self._devices[name].supply(vector)
                reply = self._devices[name].handle(message)
            assert reply is not None
            self.bytes_up[step], self.bytes_down[step] = len(reply), len(message)
            outgoing += aggregator.handle(name, reply)
        return outgoing or (aggregator.advance() if step == "mask" else [])


def _check(setting: Setting, report: Report) -> None:
    """The sum, bit for bit."""
    wanted = np.zeros(setting.length, np.int64)
    for place in setting.surviving():
        wanted += setting.vector(place)
    if len(report.survivors) != len(setting.surviving()) or not np.array_equal(report.total, wanted):
        raise SystemExit("fedmesh's sum is wrong: the comparison would mean nothing")
