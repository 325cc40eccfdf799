"""`fedmesh runs`: tables, JSON in the shape of result.json, wishes, and what is refused."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from journals import arrays

from fedmesh.cli import main
from fedmesh.coordinator import RoundRecord, RunState, RunStore, SessionRecord, StageRecord, StoredControl, Wish

Capture = pytest.CaptureFixture[str]
SCENARIO = {
    "seed": 7,
    "privacy": {"enabled": True, "mode": "shared", "epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "expected_batch": 32.0},
    "secure_aggregation": {"enabled": True, "group_size": 128, "weight_cap": 255, "attempts": 3, "overlap": True},
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite3'}"


@pytest.fixture
def store(url: str) -> Iterator[RunStore]:
    with RunStore(url) as made:
        yield made


def figures(accuracy: float, epsilon: float) -> dict[str, float | None]:
    return {"accuracy_int8": accuracy, "loss": float("nan"), "epsilon": epsilon}


@pytest.fixture
def run(store: RunStore) -> int:
    """Three rounds, of which the second failed; interrupted."""
    run_id = store.create("digits", SCENARIO, 20)
    with store.journal(run_id) as journal:
        StoredControl(store, journal).report(RunState.RUNNING)
        stage, session = StageRecord("train", 6, 5, 100, 200, 0.5), SessionRecord(0, 1, 6, 5)
        journal.commit(RoundRecord(0, evaluation=figures(0.8, 0)), arrays())
        for number in (1, 2, 3):
            failed = "2 devices were left" if number == 2 else None
            record = RoundRecord(
                number,
                clients=6,
                survivors=0 if failed else 5,
                evaluation=figures(0.8 + number / 100, number / 10),
                failures=((4, "\x1b[31mred\n"),),
                failed=failed,
                seconds=1.5,
                stages=(stage,),
                sessions=(session,),
            )
            journal.commit(record, arrays())
    return run_id


def test_runs_as_a_table_and_as_json(store: RunStore, run: int, url: str, capsys: Capture) -> None:
    store.create("har", {}, 5)
    assert main(["runs", "list", "--journal", url]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines() if "digits" in line or "har" in line]
    assert [line[1:4] for line in lines] == [["har", "created", "0/5"], ["digits", "interrupted", "3/20"]]
    assert main(["runs", "list", "--journal", url, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["state"], one["round"], one["rounds"]) for one in listed] == [
        ("har", "created", 0, 5),
        ("digits", "interrupted", 3, 20),
    ]


def test_one_run_as_tables(run: int, url: str, capsys: Capture) -> None:
    assert main(["runs", "show", "digits", "--journal", url]) == 0
    shown = capsys.readouterr().out
    for text in (f"{run:016x} digits", "interrupted", "3 of 20", "80.0% at the start, now 83.0%", "0.3 (budget 8 at"):
        assert text in shown
    assert "2 devices were left" in shown
    assert r"round 3: device 4: \x1b[31mred\n" in shown
    assert "\x1b" not in shown


def test_one_run_in_the_shape_of_a_result(run: int, url: str, store: RunStore, capsys: Capture) -> None:
    assert main(["runs", "show", f"{run:016x}"[:9], "--journal", url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    of_a_simulation = json.loads((Path(__file__).parents[2] / "data" / "result-digits.json").read_text())
    assert set(of_a_simulation) <= set(shown)
    assert set(shown) - set(of_a_simulation) <= {"run", "held_out"}  # that result is from before the latter
    assert set(of_a_simulation["rounds"][0]) <= set(shown["rounds"][0])
    for table in ("start", "final", "secure_aggregation"):
        assert set(of_a_simulation[table]) <= set(shown[table])
    assert [one["accuracy_int8"] for one in shown["rounds"]] == pytest.approx([0.81, 0.82, 0.83])
    assert (shown["rounds"][0]["loss"], shown["rounds"][1]["failed"]) == (None, "2 devices were left")
    assert shown["start"]["accuracy_int8"] == 0.8
    assert (shown["final"]["accuracy_int8"], shown["final"]["epsilon"]) == pytest.approx((0.83, 0.3))
    assert (shown["seed"], shown["clients"], shown["devices"], shown["latency_ms"]) == (7, 6, None, None)
    assert (shown["privacy"]["level"], shown["privacy"]["epsilon"]) == ("example", 8.0)
    assert (shown["secure_aggregation"]["sums"], shown["secure_aggregation"]["smallest_sum"]) == (3, 5)
    assert shown["failures"][0]["device"] == 4
    assert shown["run"]["state"] == "interrupted"
    with store.journal(run) as journal:
        journal.tell({"classes": ["0", "1"], "final": {"sha256": "ab"}})
    assert main(["runs", "show", "digits", "--journal", url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["classes"], shown["final"]["sha256"]) == (["0", "1"], "ab")
    assert shown["final"]["accuracy_int8"] == pytest.approx(0.83)


def test_a_run_that_has_not_begun_is_shown(store: RunStore, url: str, capsys: Capture) -> None:
    store.create("new", {}, 2)
    assert main(["runs", "show", "new", "--journal", url]) == 0
    assert "0 of 2" in capsys.readouterr().out
    assert main(["runs", "show", "new", "--journal", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == []


@pytest.mark.parametrize(
    ("command", "wish"),
    [
        (["stop"], Wish.STOP),
        (["stop", "--now"], Wish.STOP_NOW),
        (["pause"], Wish.PAUSE),
        (["resume"], Wish.RUN),
    ],
)
def test_what_is_asked_of_a_run(  # noqa: PLR0917 - fixtures
    command: list[str], wish: Wish, store: RunStore, run: int, url: str, capsys: Capture
) -> None:
    name, *options = command
    store.ask(run, Wish.PAUSE if wish is Wish.RUN else Wish.RUN)
    assert main(["runs", name, "digits", *options, "--journal", url]) == 0
    assert store.asked(run) is wish
    assert "No coordinator runs it now" in capsys.readouterr().out
    with store.journal(run):
        assert main(["runs", name, "digits", *options, "--journal", url]) == 0
        assert "No coordinator" not in capsys.readouterr().out
        assert main(["runs", name, "digits", *options, "--journal", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["wish"] == wish.value


def test_what_has_nothing_to_act_on_is_refused(store: RunStore, run: int, url: str, capsys: Capture) -> None:
    with store.journal(run) as journal:
        StoredControl(store, journal).report(RunState.STOPPED)
    assert main(["runs", "pause", "digits", "--journal", url]) == 2
    assert "runs resume" in capsys.readouterr().err
    with store.journal(run) as journal:
        StoredControl(store, journal).report(RunState.FINISHED)
    for name in ("stop", "pause", "resume"):
        assert main(["runs", name, "digits", "--journal", url]) == 2
        assert "has finished" in capsys.readouterr().err
    assert store.asked(run) is Wish.RUN


def test_where_the_runs_are(
    run: int, url: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "coordinator.toml"
    tables = '[identity]\nfolder = "i"\n[broker]\nhost = "b"\n[data]\nfolder = "state"\n[[task]]\nscenario = "digits"\n'
    config.write_text(f'{tables}[journal]\nurl = "sqlite:///runs.sqlite3"\n')  # beside the file, wherever one is
    assert main(["runs", "list", "--config", str(config)]) == 0
    assert "digits" in capsys.readouterr().out
    monkeypatch.setenv("FEDMESH_JOURNAL", url)
    assert main(["runs", "list"]) == 0
    monkeypatch.delenv("FEDMESH_JOURNAL")
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (["list"], "there is no journal of runs at .*fedmesh-runs.sqlite3.*--journal"),
        (["list", "--journal", url, "--config", str(config)], "give one of them"),
        (["list", "--config", str(tmp_path / "none.toml")], "none.toml"),
        (["show", "nope", "--journal", url], r"there is no run 'nope'.*digits"),
        (["list", "--journal", "mysql://me:hunter2@host/d"], "wanted sqlite:///FILE or postgresql"),
    ):
        assert main(["runs", *arguments]) == 2
        found = capsys.readouterr().err
        assert re.search(said, found), found
        assert "hunter2" not in found
    config.write_text(f"{tables}[journal]\nurl = 5\n")
    assert main(["runs", "list", "--config", str(config)]) == 2
    capsys.readouterr()
    config.write_text(tables)  # where the coordinator keeps them by itself
    assert main(["runs", "list", "--config", str(config)]) == 2
    assert "state/runs.sqlite3" in capsys.readouterr().err
    assert not (tmp_path / "fedmesh-runs.sqlite3").exists()
    assert main(["runs", "show"]) == 2
