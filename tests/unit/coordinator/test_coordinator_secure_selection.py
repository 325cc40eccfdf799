"""Over-selection under secure aggregation: stragglers are drop-outs of the sum, in every group."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import Message
from secure_federation import Federation, fedavg, loses, step_of, training_app

from fedmesh.coordinator import Coordinator, Journal, RoundSettings, RunResult, SecureAggregation
from fedmesh.errors import ConfigError
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector_record
from fedmesh.testing import ManualClock

START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
LATE = "enough others answered before"


class Slow(InlineFleet):
    """Of which some devices never finish their training: time passes instead."""

    def __init__(self, app: Any, nodes: int, slow: Iterable[int], clock: ManualClock) -> None:
        super().__init__(app, nodes)
        self._slow = set(slow)
        self._clock = clock

    def submit(self, message: Message) -> None:
        if partition_of(message.metadata.dst_node_id) not in self._slow or step_of(message) != "train":
            super().submit(message)

    def collect(self, timeout_s: float | None) -> list[Message]:
        found = super().collect(timeout_s)
        if not found:
            self._clock.advance(1.0)
        return found


def run(
    federation: Federation, settings: RoundSettings, rounds: int = 1, *, slow: Iterable[int] = (), **options: Any
) -> RunResult:
    federation.folder.mkdir(exist_ok=True)
    journal, strategy, clock = Journal(), fedavg(), ManualClock()
    secure = SecureAggregation(
        strategy,
        identity=federation.identities["aggregator"],
        roster=federation.roster,
        settings=federation.settings(rounds=rounds, **options),
        attempts=journal.next_attempt,
        rounds=settings,
        seed=3,
    )
    grid = FleetGrid(Slow(federation.app(), federation.devices, slow, clock), device_of=partition_of)
    script = lambda number, arrays: secure.script(number, arrays, grid)  # noqa: E731
    return Coordinator(
        strategy, grid, journal, script=script, settings=settings, clock=clock, device_of=partition_of
    ).run(START, rounds)


def test_a_sum_is_of_the_first_that_were_wanted(tmp_path: Path) -> None:
    settings = RoundSettings(wanted=7, over_selection=1.25, quorum=5, min_devices=5)
    federation = Federation(tmp_path, 12)
    result = run(federation, settings, 4)
    for record in result.records[1:]:
        assert (record.clients, record.survivors) == (9, 7)
        assert [reason for _, reason in record.failures] == [LATE, LATE]
        (session,) = record.sessions
        assert (session.devices, session.survivors, session.attempt) == (9, 7, 1)
    trained = {partition for _, partition, step, _ in federation.seen if step == "train"}
    assert len(trained) > 9  # another draw each round
    grid = FleetGrid(InlineFleet(training_app(delta_app()), 12))
    plain = Coordinator(fedavg(), grid, Journal(), settings=settings, seed=3).run(START, 4)
    assert plain.arrays == result.arrays  # the same first seven, in the clear


def test_every_group_keeps_as_many_as_it_needs(tmp_path: Path) -> None:
    """One group could lose all stragglers, and its sum with them: each waits for its own share."""
    settings = RoundSettings(wanted=18, over_selection=4 / 3, min_devices=24, quorum=18)
    result = run(Federation(tmp_path, 24), settings, 2, group_size=8)
    for record in result.records[1:]:
        assert len(record.sessions) == 3
        assert all(session.survivors >= 6 and session.aborted is None for session in record.sessions)
        assert 18 <= record.survivors < 24
        assert record.survivors + len(record.failures) == 24


def test_stragglers_are_not_waited_for_and_the_deadline_is_for_the_others(tmp_path: Path) -> None:
    settings = RoundSettings(wanted=7, over_selection=1.25, quorum=6, min_devices=6, deadline_s=5, train_deadline_s=50)
    two_late = run(Federation(tmp_path / "a", 9), settings, slow=(0, 8))
    assert two_late.records[1].survivors == 7
    assert two_late.records[1].seconds == 0
    assert dict(two_late.records[1].failures) == {0: LATE, 8: LATE}
    # No third one: then the training's own deadline ends the wait, and the sum is of fewer if it can be.
    settings = dataclasses.replace(settings, wanted=8, over_selection=1.125, quorum=7, min_devices=7)
    more_late = run(Federation(tmp_path / "b", 9), settings, slow=(0, 8))
    assert more_late.records[1].survivors == 7
    assert more_late.records[1].seconds == pytest.approx(50, abs=2)
    assert set(dict(more_late.records[1].failures).values()) == {"no answer by the deadline"}


def test_a_device_that_fails_is_no_straggler(tmp_path: Path) -> None:
    settings = RoundSettings(wanted=7, over_selection=1.25, quorum=5, min_devices=5)
    federation = Federation(tmp_path, 9, trouble=loses((0, "train"), (1, "train")))
    record = run(federation, settings).records[1]
    assert record.survivors == 7
    assert len(record.failures) == 2
    assert LATE not in dict(record.failures).values()


def test_settings_that_come_to_no_sum_are_refused_before_the_first_round(tmp_path: Path) -> None:
    for options in ({"over_selection": 2.0}, {"over_selection": 1.5, "wanted": 9}):
        with pytest.raises(ConfigError, match="lower over_selection"):
            run(Federation(tmp_path, 30), RoundSettings(**{"wanted": 10, "min_devices": 4, **options}))
