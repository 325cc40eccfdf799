"""Interrupted runs: killed, stopped by Ctrl-C, damaged. No round is lost, none is done twice, nothing is guessed."""

import json
import shutil
import signal
import sqlite3
import time

import pytest
from small_runs import (
    arguments,
    finish,
    go_on,
    resume,
    send_signal,
    simulate,
    small_digits,
    start,
    steady,
    wait_for_round,
)

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.events import StageStarted
from fedmesh.privacy import FileLedger
from fedmesh.simulation import run

ROUNDS = 6


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The same run, never interrupted."""
    out = tmp_path_factory.mktemp("reference") / "run"
    return simulate(small_digits(rounds=ROUNDS), out, workers=2)


def test_kill_9_again_and_again_ends_in_the_same_run(reference, tmp_path):
    out = tmp_path / "run"
    process = start(arguments(out, rounds=ROUNDS), held=True)
    for number in (1, 3, 4):
        wait_for_round(process, number)
        go_on(process)
        time.sleep(0.02 * number)  # somewhere inside the next round, at whose end it waits
        send_signal(process)
        finish(process)
        if number < 4:
            process = start(["simulate", "--resume", str(out), "--workers", "1"], held=True)
    check_same(resume(out, workers=1), reference, interruptions=3)
    with FileLedger(out / "ledgers" / "device-0.ledger", epsilon=8.0, delta=1e-5) as ledger:
        assert len(ledger.charges) == ROUNDS  # a round asked for twice is the same release: paid once


def test_ctrl_c_says_how_to_go_on_and_going_on_works(reference, tmp_path):
    out = tmp_path / "run"
    process = start(arguments(out, rounds=ROUNDS), held=True)
    wait_for_round(process, 2)
    send_signal(process, signal.SIGINT)
    status, _, errors = finish(process)
    assert status == 130
    assert f"fedmesh simulate --resume {out}" in errors.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in errors
    check_same(resume(out, workers=1), reference, interruptions=1)


def check_same(result, reference, *, interruptions):
    """The same run, but for rounds that were interrupted after devices had signed who is in the sum: those are gone."""
    lost = [row for row in result["rounds"] if row["failed"]]
    if lost:  # a device signs once a round
        assert len(lost) <= interruptions
        assert all("at the step 'advertise'" in row["failed"] for row in lost)
    else:
        assert steady(result, interrupted=True) == steady(reference, interrupted=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped after its second round."""
    out = tmp_path_factory.mktemp("stopped") / "run"

    def stop(event):
        if type(event).__name__ == "RoundFinished" and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(small_digits(), out, workers=1, events=stop)
    return out


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "run")


def stopped_at(out, stage):
    """A run that stopped in its second round, at a stage."""

    def stop(event):
        if isinstance(event, StageStarted) and (event.round, event.stage) == (2, stage):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(small_digits(), out, workers=1, events=stop)


def test_stopped_before_anybody_has_signed_the_round_is_done_again(tmp_path):
    stopped_at(tmp_path / "run", "sign")
    result = resume(tmp_path / "run", workers=1)
    assert [row["failed"] for row in result["rounds"]] == [None] * 3
    assert [row["sessions"][0]["attempt"] for row in result["rounds"]] == [1, 2, 2]  # the third's was prepared twice
    whole = simulate(small_digits(), tmp_path / "whole", workers=1)
    assert steady(result, interrupted=True) == steady(whole, interrupted=True)


def test_stopped_after_devices_have_signed_a_round_that_round_is_lost_and_nothing_else(tmp_path):
    stopped_at(tmp_path / "run", "unmask")
    result = resume(tmp_path / "run", workers=1)
    first, second, third = result["rounds"]
    assert first["failed"] is None
    assert third["failed"] is None
    assert "0 of 4 devices are left at the step 'advertise'" in second["failed"]
    assert (second["survivors"], second["accuracy_int8"]) == (0, first["accuracy_int8"])
    assert all("round 2 is over" in failure["reason"] for failure in result["failures"])
    assert len(result["failures"]) == 4


def test_a_run_stopped_before_its_start_was_kept_begins_anew(interrupted):
    (interrupted / "start.cbor").unlink()
    (interrupted / "journal.sqlite3").unlink()
    shutil.rmtree(interrupted / "identities")  # made after the start: devices that had signed a round would refuse it
    assert len(resume(interrupted, workers=1)["rounds"]) == 3


def test_a_directory_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match="nothing to resume"):
        resume(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "start.cbor", "journal.sqlite3"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "noise"])
def test_a_damaged_file_is_named_and_refused(interrupted, name, damage):
    file = interrupted / name
    data = file.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]
    file.write_bytes({"truncated": data[: middle + 1], "flipped": flipped, "noise": b"\x00\xff" * 600}[damage])
    if name == "run.json" and damage == "flipped":
        file.write_bytes(data.replace(b'"rounds"', b'"ruonds"'))
    with pytest.raises(ConfigError, match=name):
        resume(interrupted, workers=1)


def test_a_round_edited_in_the_journal_is_noticed(interrupted):
    with sqlite3.connect(interrupted / "journal.sqlite3") as db:
        db.execute("UPDATE round SET record = replace(record, '\"survivors\": 4', '\"survivors\": 3') WHERE number = 1")
    db.close()
    with pytest.raises(ConfigError, match="damaged"):
        resume(interrupted, workers=1)


def test_other_data_than_the_run_was_started_on(interrupted, monkeypatch):
    monkeypatch.setattr(run, "data_digest", lambda _: "0" * 64)
    with pytest.raises(ConfigError, match="has changed"):
        resume(interrupted, workers=1)


def test_an_edited_scenario_is_noticed(interrupted):
    file = interrupted / "run.json"
    content = json.loads(file.read_text())
    content["scenario"]["client"]["learning_rate"] *= 2
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"run\.json is not what the run was started with"):
        resume(interrupted, workers=1)


def test_a_lost_ledger_is_noticed(interrupted):
    (interrupted / "ledgers" / "device-1.ledger").unlink()
    with pytest.raises(LedgerError, match=r"device-1\.ledger is missing, and the anchor .* knows 3 entries"):
        resume(interrupted, workers=1)
