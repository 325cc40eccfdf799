"""``fedmesh coordinator run``: what it shows and writes, and what it refuses."""

import io
import json
import math

import pytest
from rich.console import Console

from fedmesh.cli import main
from fedmesh.cli.event_file import as_json, event_file
from fedmesh.cli.fleet_progress import Board, Lines
from fedmesh.errors import ConfigError
from fedmesh.events import (
    DeviceAnswered,
    DeviceReplied,
    DeviceSeen,
    Notice,
    OfTask,
    RoundFinished,
    RoundStarted,
    RunStarted,
    StageStarted,
    WaitingForDevices,
)

STORY = [
    DeviceSeen("device-1", "full", True, ""),
    DeviceSeen("device-2", "lite", False, "battery"),
    OfTask("digits", 0, RunStarted("digits", 20, 3, 4)),
    OfTask("digits", 7, DeviceAnswered("device-1", True, "")),
    OfTask("digits", 7, DeviceAnswered("device-2", False, "policy")),
    OfTask("digits", 7, WaitingForDevices(3, 1, 4)),
    OfTask("digits", 7, RoundStarted(3)),
    OfTask("digits", 7, StageStarted(3, "train", 4)),
    OfTask("digits", 7, DeviceReplied(3, "train", 0, 100)),
]
FINISHED = OfTask("digits", 7, RoundFinished(3, 4, 4, 0.5, math.nan, None, 1.0, 1.0, 2.0))


def shown(what):
    text = io.StringIO()
    Console(file=text, width=200).print(what)
    return text.getvalue()


def test_lines_name_their_task():
    text = io.StringIO()
    lines = Lines(Console(file=text, width=80))
    for event in [*STORY, FINISHED, Notice("the broker\x1b[31m is not there [bold]")]:
        lines.handle(event)
    said = text.getvalue().splitlines()
    assert said == [
        "digits: 20 rounds, planned for 4 devices, going on at round 3",
        "digits: device-1 takes part",
        "digits: device-2 declines: policy",
        "digits: waiting for devices: 1 are there, round 3 wants 4",
        "digits: round 3/20: accuracy 50.0%, loss nan, 4/4 devices, 2.0 s",
        "the broker?[31m is not there [bold]",
    ]


def test_the_table_is_what_was_told_last():
    board = Board()
    for event in STORY:
        board.handle(event)
    text = shown(board.table())
    assert "2 devices seen, 1 available" in text
    assert [cell.strip() for cell in text.splitlines()[-2].split("│")[1:-1]] == [
        "digits",
        "3/20",
        "train",
        "1/4",
        "1",
        "",
    ]
    board.handle(FINISHED)
    assert "accuracy 50.0%" in shown(board.table())


def test_an_event_is_one_line_of_json(tmp_path):
    path = tmp_path / "events"
    for _ in range(2):
        with event_file(path, clock=lambda: 5.0) as tell:
            tell(FINISHED)
            assert path.read_text().endswith("\n"), "at once, not in the end"
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == second
    assert {
        "time": 5.0,
        "task": "digits",
        "run": 7,
        "event": "RoundFinished",
        "round": 3,
        "loss": None,
    }.items() <= first.items()
    assert json.loads(as_json(Notice("x"), 1.0)) == {"time": 1.0, "event": "Notice", "text": "x"}
    with pytest.raises(ConfigError, match="name another file"), event_file(tmp_path / "no" / "file"):
        pass
    with event_file(None) as tell:
        tell(FINISHED)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[broker]", "[brokr]"), "did you mean broker?"),
        (('scenario = "digits"', 'scenario = "digts"'), "did you mean digits?"),
        (('scenario = "digits"', 'scenario = "digits"\ndevices = ["a"]'), "secure aggregation is among at least 4"),
        (("", ""), "nobody is enrolled"),
    ],
)
def test_mistakes_are_the_operators(tmp_path, capsys, change, says):
    text = """
    [identity]
    folder = "identity"
    [broker]
    host = "localhost"
    [data]
    folder = "data"
    [[task]]
    scenario = "digits"
    """
    file = tmp_path / "coordinator.toml"
    file.write_text(text.replace(*change) if change[0] else text)
    assert main(["coordinator", "run", str(file)]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
