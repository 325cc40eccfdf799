"""Rounds under secure aggregation, over an in-memory grid: the sum is the plain one, in groups and with keys ahead."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from secure_federation import Federation, loses
from secure_rounds import THREE, plain, run, stages

from fedmesh.flower.secure import AHEAD, STEPS


def test_the_arrays_are_bit_for_bit_those_of_the_plain_sum(tmp_path: Path) -> None:
    result = run(Federation(tmp_path, 5), 3)
    assert result.arrays == plain(5, 3)
    assert [record.survivors for record in result.records] == [0, 5, 5, 5]


@pytest.mark.parametrize("cap", [3, 100])
def test_weights_up_to_the_cap_and_metrics_travel_in_the_sum(tmp_path: Path, cap: int) -> None:
    reported = ("examples", "loss")
    result = run(Federation(tmp_path, 5, weight_cap=cap, reported=reported))
    weights = np.minimum(np.arange(1, 6), cap)
    if cap == 100:
        assert result.arrays == plain(5, weighting="examples")
    metrics = result.records[1].metrics
    assert metrics["train.weight"] == weights.sum()
    assert metrics["train.examples"] == pytest.approx(np.average(np.arange(1, 6), weights=weights))
    assert metrics["train.loss"] == pytest.approx(np.average(np.arange(5) / 8, weights=weights))


def test_a_device_sends_nothing_but_its_messages_of_the_sessions(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    run(federation, 2)
    for reply in federation.replies:
        assert set(reply.content) <= {"secagg", AHEAD}
        assert all(list(record) == ["message"] for record in reply.content.array_records.values())


def test_keys_of_the_next_round_are_exchanged_during_this_one(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)
    result = run(federation, 3)
    assert stages(result, 1) == list(STEPS)
    assert stages(result, 2) == stages(result, 3) == THREE
    assert [record.sessions[0].attempt for record in result.records[1:]] == [1, 1, 1]
    ahead = Counter((number, step, following) for number, _, step, following in federation.seen if following)
    assert ahead == {(n, "train", "advertise"): 5 for n in (1, 2)} | {(n, "sign", "share"): 5 for n in (1, 2)}


@pytest.mark.parametrize("options", [{"overlap": False}, {"rounds": None}], ids=["off", "unknown end"])
def test_without_overlap_every_round_has_all_its_steps(tmp_path: Path, options: dict[str, Any]) -> None:
    federation = Federation(tmp_path, 4)
    result = run(federation, 3, known=options.get("rounds", 3), overlap=options.get("overlap", True))
    assert [stages(result, number) for number in (1, 2, 3)] == [list(STEPS)] * 3
    assert not any(following for *_, following in federation.seen)
    assert result.arrays == plain(4, 3)


def test_devices_drawn_for_the_next_round_only_are_asked_for_their_keys_and_do_not_count(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 12)
    result = run(federation, 4, fraction=0.5)
    assert result.arrays == plain(12, 4, fraction=0.5)
    assert [record.clients for record in result.records[1:]] == [6] * 4
    assert stages(result, 4) == THREE
    alone = {(step, following) for _, _, step, following in federation.seen if following and not step}
    assert alone == {("", "advertise"), ("", "share")}
    assert result.records[2].stages[0].devices > 6


@pytest.mark.parametrize(("step", "expected"), [("train", [*STEPS]), ("sign", [*STEPS]), ("unmask", THREE)])
def test_a_loss_on_the_way_costs_the_prepared_session_and_nobodys_place(
    tmp_path: Path, step: str, expected: list[str]
) -> None:
    """Whoever fails in the round before is drawn again, in a session with new keys."""
    result = run(Federation(tmp_path, 5, trouble=loses((2, step), rounds=[1])), 2)
    assert stages(result, 2) == expected
    assert (result.records[2].clients, result.records[2].survivors) == (5, 5)
    assert result.records[2].sessions[0].attempt == (1 if expected == THREE else 2)


def test_a_device_that_cannot_prepare_takes_part_in_this_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)

    def no_ahead(message: Message, partition: int) -> None:
        if partition == 3:
            message.content.pop(AHEAD, None)

    federation.trouble = no_ahead
    result = run(federation, 2)
    assert [record.survivors for record in result.records[1:]] == [5, 5]
    assert stages(result, 2) == list(STEPS)
    assert result.records[2].sessions[0].attempt == 2
    assert result.arrays == plain(5, 2)


def test_a_large_cohort_is_dealt_into_groups_whose_sums_are_added(tmp_path: Path) -> None:
    result = run(Federation(tmp_path, 12, weight_cap=12), 2, group_size=4)
    assert result.arrays == plain(12, 2, weighting="examples")
    for record in result.records[1:]:
        assert [(s.group, s.devices, s.survivors) for s in record.sessions] == [(g, 4, 4) for g in range(3)]
        assert record.survivors == 12
    assert stages(result, 2) == THREE


def test_a_stages_bytes_and_seconds_are_recorded(tmp_path: Path) -> None:
    record = run(Federation(tmp_path, 5)).records[1]
    assert [stage.name for stage in record.stages] == list(STEPS)
    for stage in record.stages:
        assert stage.devices == stage.replies == 5
        assert stage.bytes_up > 5 * 64
        assert stage.bytes_down > 5 * 64
        assert stage.seconds > 0
    assert sum(stage.bytes_up for stage in record.stages) == pytest.approx(5 * record.bytes_up)
    assert sum(stage.bytes_down for stage in record.stages) == pytest.approx(5 * record.bytes_down)
