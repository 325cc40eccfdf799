"""``fedmesh privacy audit`` and ``attack``: what they print, write and end with, on a scenario cut down to seconds."""

import json

import pytest

from fedmesh.cli import main
from fedmesh.cli.simulate import make_writable
from fedmesh.simulation.laboratory import silence
from fedmesh.simulation.laboratory.broken import BROKEN

SMALL = ["--set", "model.pretrain_epochs=1", "--set", "model.options={width=2}", "--set", "rounds=1"]


def complaint(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_an_audit_prints_and_writes_what_it_found(tmp_path, capsys):
    arguments = [
        "privacy",
        "audit",
        "digits",
        *SMALL,
        "--canaries",
        "200",
        "--samples",
        "20000",
        "--out",
        str(tmp_path),
    ]
    assert main([*arguments, "--fault", "no-clip"]) == 0
    captured = capsys.readouterr()
    assert "as configured" in captured.out
    assert "clip forgotten: a canary moves its score" in captured.out
    assert "nothing that was measured contradicts the promise" in captured.out
    assert "canaries: as configured" in captured.err
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["passed"]
    assert content["mode"] == "local"
    assert [run["run"] for run in content["runs"]] == ["as configured", "without noise", "clip forgotten"]
    assert (tmp_path / "audit.png").is_file()


def test_an_audit_that_finds_a_violation_ends_with_1(monkeypatch, capsys):
    check = silence.check_noise
    monkeypatch.setattr(silence, "check_noise", lambda *a, **k: check(*a, **k, fault=BROKEN["half-noise"]))
    arguments = ["privacy", "audit", "digits", *SMALL, "--canaries", "50", "--samples", "20000", "--json"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    content = json.loads(captured.out)
    assert not content["passed"]
    assert not content["noise"][0]["holds"]


def test_membership_is_printed_as_json(capsys):
    arguments = [
        "privacy",
        "attack",
        "membership",
        "digits",
        *SMALL,
        "--examples",
        "6",
        "--models",
        "4",
        "--epochs",
        "1",
    ]
    assert main([*arguments, "--json"]) == 0
    pipelines = json.loads(capsys.readouterr().out)["pipelines"]
    assert [one["pipeline"].partition(",")[0] for one in pipelines] == [
        "update in the clear",
        "secure sum of 10",
        "noise on the device",
    ]


def test_inversion_writes_a_picture(tmp_path, capsys):
    arguments = ["privacy", "attack", "inversion", "digits", *SMALL, "--images", "2", "--batch", "2", "--steps", "3"]
    assert main([*arguments, "--out", str(tmp_path), "-q"]) == 0
    captured = capsys.readouterr()
    assert "recognised" in captured.out
    assert captured.err == ""
    assert (tmp_path / "inversion.png").is_file()
    assert (tmp_path / "inversion.json").is_file()


@pytest.mark.parametrize("command", [["audit"], ["attack", "membership"], ["attack", "inversion"]])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_loaded(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    message = complaint(["privacy", *command, "digits", "--out", str(tmp_path / "file")], capsys)
    assert (
        message == f"error: the folder {tmp_path / 'file'} cannot be written: File exists; choose another with --out\n"
    )


def test_trying_a_folder_leaves_what_is_in_it(tmp_path):
    (tmp_path / "mine").write_text("all of it")
    make_writable(tmp_path / "new" / "er", called="folder")
    make_writable(tmp_path, called="folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]
    assert (tmp_path / "mine").read_text() == "all of it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audit", "digits", "--set", "privacy.enabled=false"], "promises no privacy"),
        (["audit", "digits", "--fault", "gremlins"], "half-noise"),
        (["audit", "digits", "--confidence", "2"], "--confidence"),
        (["audit", "digts"], "did you mean digits"),
        (["attack", "membership", "digits", "--models", "2"], "--models"),
        (["attack", "inversion", "digits", "--images", "3", "--batch", "2"], "multiple of the batch"),
    ],
)
def test_mistakes_are_told_in_a_paragraph(arguments, said, capsys):
    message = complaint(
        ["privacy", *arguments, "-q"] + (SMALL if len(arguments) > 2 or "fault" in said else []), capsys
    )
    assert said in message
