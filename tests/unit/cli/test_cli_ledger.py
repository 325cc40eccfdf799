"""`ledger show` and `ledger verify`: one ledger, a folder, a run; whole, damaged, rolled back."""

import json
import os
from pathlib import Path

import pytest

from fedmesh.cli import main
from fedmesh.client.identities import create_identities
from fedmesh.client.ledgers import open_ledger
from fedmesh.privacy import FileLedger, epsilon
from fedmesh.privacy.accountant import gaussian, sampled_gaussian
from fedmesh.privacy.chain import entry_line, opening_line
from fedmesh.privacy.entries import Charge, Opening
from fedmesh.types import PrivacyEvent

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three devices, of which the third never charged."""
    folder = tmp_path / "run"
    create_identities(folder / "identities", 11)
    (folder / "ledgers").mkdir()
    for device, charges in ((0, 1), (10, 30), (2, 0)):
        with open_ledger(
            folder / "ledgers", device, epsilon=8.0, delta=1e-5, identities=folder / "identities"
        ) as ledger:
            task = ledger.for_task("digits", epsilon=6.0, delta=1e-6)
            for number in range(charges):
                task.charge(gaussian(40.0, 2, f"digits/round-{number}"))
    return folder


def ledger_of(run: Path, device: int) -> Path:
    return run / "ledgers" / f"device-{device}.ledger"


def test_a_ledger_as_json(run: Path, capsys: Capture) -> None:
    assert main(["ledger", "show", str(ledger_of(run, 10)), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    events = [gaussian(40.0, 60)]
    assert (shown["device"], shown["level"], shown["format"]) == ("device-10", "example", "fedmesh-ledger/2")
    assert (shown["budget"], shown["delta"], shown["charges"]) == (8.0, 1e-5, 30)
    assert shown["epsilon"] == shown["pld"] == pytest.approx(epsilon(events, 1e-5))
    assert shown["rdp"] == epsilon(events, 1e-5, "rdp")
    assert shown["left"] == 8.0 - shown["rdp"]
    assert shown["tasks"][0]["task"] == "digits"
    assert shown["tasks"][0]["budget"] == 6.0
    assert shown["tasks"][0]["rdp"] == epsilon(events, 1e-6, "rdp")
    assert len(shown["entries"]) == 31
    assert shown["entries"][1]["label"] == "digits/round-0"
    assert shown["entries"][-1]["spent"] == shown["rdp"]
    assert shown["head"]["entries"] == 32
    assert shown["anchor"].endswith("identities/device-10.anchor")
    assert shown["error"] is None


def test_a_ledger_as_tables(run: Path, capsys: Capture) -> None:
    assert main(["ledger", "show", str(ledger_of(run, 10))]) == 0
    shown = capsys.readouterr().out
    for text in (
        "example level",
        "32 entries, 30 charges",
        "device-10.anchor",
        "budget of digits",
        "7 more: see --json",
    ):
        assert text in shown
    assert "digits/round-29" in shown
    assert "digits/round-15" not in shown


@pytest.mark.parametrize("place", ["run", "run/ledgers"])
def test_a_folder_is_a_line_for_each_device(place: str, run: Path, capsys: Capture) -> None:
    assert main(["ledger", "show", str(run.parent / place)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "device-" in line] == [
        "device-0",
        "device-2",
        "device-10",
    ]
    assert shown.count("holds") == 3
    assert main(["ledger", "show", str(run.parent / place), "--json"]) == 0
    assert [item["charges"] for item in json.loads(capsys.readouterr().out)["ledgers"]] == [1, 0, 30]


def test_looking_needs_no_lock_and_leaves_no_trace(run: Path, capsys: Capture) -> None:
    path = ledger_of(run, 0)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    path.chmod(0o400)
    with FileLedger(ledger_of(run, 2), epsilon=8.0, delta=1e-5):
        assert main(["ledger", "show", str(run)]) == 0
        assert main(["ledger", "verify", str(run)]) == 0
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_whole_ledgers_are_verified(run: Path, capsys: Capture) -> None:
    assert main(["ledger", "verify", str(ledger_of(run, 10))]) == 0
    assert "✓" in (shown := capsys.readouterr().out)
    assert "32 entries; contains what device-10.anchor remembers" in shown
    assert main(["ledger", "verify", str(run), "--json"]) == 0
    assert [item["ok"] for item in json.loads(capsys.readouterr().out)["ledgers"]] == [True] * 3


def test_a_ledger_outside_of_a_run_has_no_anchor_unless_it_is_named(run: Path, tmp_path: Path, capsys: Capture) -> None:
    alone = tmp_path / "alone.ledger"
    whole = ledger_of(run, 10).read_bytes()
    anchor = str(run / "identities" / "device-10.anchor")
    alone.write_bytes(whole)
    assert main(["ledger", "verify", str(alone)]) == 0
    assert "no anchor: a ledger whose end was cut off, or that was replaced, does not show" in capsys.readouterr().out
    assert main(["ledger", "verify", str(alone), "--anchor", anchor]) == 0
    alone.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    capsys.readouterr()
    assert main(["ledger", "verify", str(alone)]) == 0
    assert main(["ledger", "verify", str(alone), "--anchor", anchor]) == 1
    assert "rolled back or replaced: 32 entries" in capsys.readouterr().out


def test_a_damaged_ledger_is_named_with_its_entry(run: Path, capsys: Capture) -> None:
    path = ledger_of(run, 10)
    path.write_bytes(path.read_bytes().replace(b'"label":"digits/round-7"', b'"label":"digits/round-8"'))
    assert main(["ledger", "verify", str(path)]) == 1
    captured = capsys.readouterr()
    assert "entry 9 does not follow from the entry before it" in captured.out
    assert captured.err == ""
    assert main(["ledger", "verify", str(run), "--json"]) == 1
    assert [item["ok"] for item in json.loads(capsys.readouterr().out)["ledgers"]] == [True, True, False]
    assert main(["ledger", "show", str(path)]) == 1
    assert "entry 9" in capsys.readouterr().err
    assert main(["ledger", "show", str(run)]) == 1
    assert "damaged" in capsys.readouterr().out


def test_a_rollback_or_a_lost_anchor_is_shown(run: Path, capsys: Capture) -> None:
    path = ledger_of(run, 10)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    (run / "identities" / "device-0.anchor").unlink()
    assert main(["ledger", "verify", str(run)]) == 1
    shown = capsys.readouterr().out
    assert shown.count("✗") == 2
    assert "rolled back or replaced: 32 entries" in shown
    assert "device-0.anchor of the privacy ledger cannot be read" in shown
    assert main(["ledger", "show", str(path)]) == 0  # what there is of it
    assert "rolled back" in capsys.readouterr().out
    assert main(["ledger", "show", str(run)]) == 0
    assert capsys.readouterr().out.count("see verify") == 2


def test_an_interrupted_write_is_no_damage(run: Path, capsys: Capture) -> None:
    alone = run / "device-0.ledger"
    alone.write_bytes(ledger_of(run, 0).read_bytes()[:-9])
    assert main(["ledger", "verify", str(alone)]) == 0
    assert "interrupted and never charged" in capsys.readouterr().out
    assert main(["ledger", "show", str(alone)]) == 0
    assert "bytes of a last entry" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["show", "{run}/nothing"], "is not there", 2),
        (["verify", "{run}/nothing"], "is not there", 2),
        (["show", "{run}/identities"], "there are no ledgers in", 2),
        (["verify", "{run}", "--anchor", "x"], "name its ledger, not a folder", 2),
        (["show", "{run}/foreign"], "there is no ledger", 1),
        (["show", "{run}/lines"], "Restore it from a copy", 1),
        (["show"], "Missing argument", 2),
    ],
)
def test_mistakes(arguments: list[str], said: str, code: int, run: Path, capsys: Capture) -> None:
    (run / "foreign").write_bytes(bytes(range(128, 160)))
    (run / "lines").write_bytes(b"no\nledger\n")
    assert main(["ledger", *(part.format(run=run) for part in arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(run: Path, capsys: Capture) -> None:
    (run / "ledgers").chmod(0)
    assert main(["ledger", "show", str(run)]) == 2
    (run / "ledgers").chmod(0o700)
    assert f"cannot read the folder {run / 'ledgers'}: Permission denied" in capsys.readouterr().err


def test_a_folder_shows_which_ledgers_are_to_be_verified(tmp_path: Path, capsys: Capture) -> None:
    written(tmp_path / "odd.ledger", sampled_gaussian(0.1, 1e-4))  # more than the budget
    assert main(["ledger", "show", str(tmp_path)]) == 0
    assert "see verify" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "80"])
def test_a_narrow_terminal_cuts_no_figure_off(
    columns: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["ledger", "show", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert shown.count("holds") == 3
    assert shown.count("device-") == 3


def written(path: Path, event: PrivacyEvent) -> Path:
    """A ledger that no `FileLedger` would have written: its hashes are right, its one charge was never checked."""
    opening, head = opening_line(Opening(8.0, 1e-5))
    path.write_bytes(opening + entry_line(Charge(event), head)[0])
    return path


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (sampled_gaussian(0.1, 1e-4), "spent epsilon inf of 8"),
        (sampled_gaussian(0.1, 1.0, 10**12), "spent epsilon inf of 8"),
        (gaussian(1e-200, 10**300), "cannot be accounted for"),
        (PrivacyEvent("skellam", {"l1": 1e300, "l2": 1e300, "variance": 1e-300}), "cannot be accounted for"),
    ],
)
def test_figures_that_would_exhaust_memory_or_overflow(
    event: PrivacyEvent, said: str, tmp_path: Path, capsys: Capture
) -> None:
    path = written(tmp_path / "odd.ledger", event)
    assert main(["ledger", "show", str(path)]) == 0
    capsys.readouterr()
    assert main(["ledger", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] is None
    assert main(["ledger", "verify", str(path)]) == 1
    assert said in capsys.readouterr().out


def test_a_label_does_not_command_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path / "odd.ledger", gaussian(40.0, 1, "t\x1b]0;title\x07\x1b[31m/round-1"))
    assert main(["ledger", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\\x1b]0;title" in shown
    assert not {"\x1b", "\x07"} & set(shown)
