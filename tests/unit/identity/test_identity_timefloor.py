"""The time floor: what was proved stays, what a clock says counts for little."""

from pathlib import Path

import pytest
from meshes import NOW

from fedmesh.errors import ConfigError
from fedmesh.identity import TimeFloor
from fedmesh.wire import dumps

DAY_S = 86_400


def test_what_was_proved_survives_a_restart_and_a_stopped_clock(tmp_path: Path):
    floor = TimeFloor.create(tmp_path / "floor", NOW)
    assert floor.now(0.0) == NOW
    floor.prove(NOW + 100)
    floor.prove(NOW + 50)
    assert TimeFloor(tmp_path / "floor").now(0.0) == NOW + 100
    assert TimeFloor.create(tmp_path / "floor", NOW).now(0.0) == NOW + 100
    assert (tmp_path / "floor").stat().st_mode & 0o777 == 0o600


def test_a_clock_that_is_ahead_is_believed_now_and_a_day_of_it_later(tmp_path: Path):
    floor = TimeFloor.create(tmp_path / "floor", NOW)
    assert floor.now(NOW + 1_000 * DAY_S) == NOW + 1_000 * DAY_S
    assert TimeFloor(tmp_path / "floor").now(0.0) == NOW + DAY_S
    floor.prove(NOW + 2 * DAY_S)
    assert floor.now(NOW) == NOW + 2 * DAY_S


def test_a_clock_that_runs_is_written_now_and_then(tmp_path: Path):
    path = tmp_path / "floor"
    floor = TimeFloor.create(path, NOW)
    floor.now(NOW + 3_599)
    assert TimeFloor(path).floor == NOW
    floor.now(NOW + 3_600)
    assert TimeFloor(path).floor == NOW + 3_600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 200,
        dumps(["fedmesh-time-floor/1", 2, 1]),
        dumps(["fedmesh-time-floor/2", 1, 1]),
        dumps(["fedmesh-time-floor/1", 1.0, 1]),
        dumps(["fedmesh-time-floor/1", 1, 1 << 41]),
        dumps(["fedmesh-time-floor/1", -1, 1]),
        dumps({}),
    ],
)
def test_a_damaged_floor_is_not_taken_for_none(tmp_path: Path, content: bytes):
    (tmp_path / "floor").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        TimeFloor(tmp_path / "floor")


def test_a_lost_floor_is_not_made_anew_by_reading(tmp_path: Path):
    with pytest.raises(ConfigError, match="enrol the device anew"):
        TimeFloor(tmp_path / "floor")


def test_a_time_that_is_none(tmp_path: Path):
    floor = TimeFloor.create(tmp_path / "floor", NOW)
    with pytest.raises(ConfigError, match="no times"):
        floor.prove(1 << 41)
    assert TimeFloor(tmp_path / "floor").now(0.0) == NOW
