"""Assignments, TOML, the processor's facts, the broker, progress and the summary."""

import io
import json
import re
import socket
import threading
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from fedmesh.cli import checks, machine, main, overrides, toml
from fedmesh.cli.broker import look_for
from fedmesh.cli.progress import Bars, Lines, progress
from fedmesh.cli.summary import print_summary
from fedmesh.errors import ConfigError
from fedmesh.events import (
    DeviceFailed,
    DeviceReplied,
    Event,
    ModelChecked,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    StageStarted,
    StepDone,
)

RESULT = json.loads((Path(__file__).parents[2] / "data" / "result-digits.json").read_text(encoding="utf-8"))

Capture = pytest.CaptureFixture[str]

KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
TABLES = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), SCALARS | st.lists(SCALARS)),
    lambda inner: st.dictionaries(KEYS, SCALARS | inner, max_size=4),
    max_leaves=8,
)


@given(TABLES)
def test_toml_reads_back_as_it_was(tables: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tables)) == tables


def test_toml_tells_what_is_not_set() -> None:
    assert toml.dumps({"a": {"b": None, "c": 1}}) == "[a]\nc = 1\n# b is not set\n"
    with pytest.raises(TypeError):
        toml.dumps({"a": object()})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=3", 3), ("x=0.5", 0.5), ("x=1e-5", 1e-5), ("x=true", True), ("x=natural", "natural"), ('x="a b"', "a b"),
        ("x=", None), (" x = 3 ", 3), ("x=[1, 2]", [1, 2]), ("x=a-b/c.npz", "a-b/c.npz"), ("x='='", "="),
    ],
)  # fmt: skip
def test_assignments(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(ConfigError, match="has no value"):
            overrides.parse([text])
    else:
        assert overrides.parse([text]) == {"x": value}


def test_the_last_assignment_wins() -> None:
    assert overrides.parse(["a.b=1", "c=2", "a.b=3"]) == {"a.b": 3, "c": 2}


@pytest.mark.parametrize("text", ["x=1\ny=2", "x=1 y", "x='", "x=[1", "x={a=", "a..b=1", ".a=1", "a b=1", "x"])
def test_assignments_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted table\.key=value|not TOML"):
        overrides.parse([text])


@given(st.text(max_size=40))
def test_any_assignment_is_read_or_refused(text: str) -> None:
    with suppress(ConfigError):  # and nothing else
        assert len(overrides.parse([text])) == 1


@pytest.mark.parametrize(
    ("cpuinfo", "model", "feature", "fast"),
    [
        ("model name\t: Intel X\nflags\t\t: fpu avx2 avx512_vnni\n", "Intel X", "AVX512-VNNI", True),
        ("model name\t: Old\nflags\t\t: fpu avx2\n", "Old", "AVX2", False),
        ("processor : 0\nFeatures\t: fp asimd asimddp\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5", "dotprod", True),
    ],
)
def test_processors(tmp_path: Path, cpuinfo: str, model: str, feature: str, fast: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    facts = machine.cpu_facts(tmp_path / "cpuinfo")
    assert facts.model == model
    assert feature in facts.features
    assert facts.int8_dot_product is fast
    assert 1 <= facts.usable_cores <= facts.cores


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert machine.cpu_facts(tmp_path / "none").features == ()
    assert machine.memory_bytes(tmp_path / "none") == (None, None)
    (tmp_path / "odd").write_text("MemTotal: much\n")
    assert machine.memory_bytes(tmp_path / "odd") == (None, None)


class Broker(threading.Thread):
    """Answers one connection with fixed bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._answer = answer

    def run(self) -> None:
        connection, _ = self._socket.accept()
        with connection, self._socket:
            connection.recv(1024)
            connection.sendall(self._answer)
            connection.settimeout(60)
            with suppress(OSError):  # reset by a client that leaves at once
                connection.recv(1024)


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x00", b"\x20\x02\x00\x05"])
def test_a_broker_that_answers_is_found_even_if_it_refuses(answer: bytes) -> None:
    broker = Broker(answer)
    broker.start()
    found = look_for(broker.address, timeout_s=60)
    broker.join()
    assert found.status == "ok"
    assert broker.address in found.detail


def test_what_is_no_broker() -> None:
    other = Broker(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    other.start()
    assert look_for(other.address, timeout_s=0.5).status == "note"
    other.join()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert look_for(f"127.0.0.1:{port}", timeout_s=0.5).status == "note"


@pytest.mark.parametrize("address", ["localhost:", ":1883", "localhost:mqtt", "localhost:0", "localhost:70000"])
def test_broker_addresses_that_are_none(address: str) -> None:
    assert look_for(address).status == "failed"


def test_doctor_reports_on_this_machine(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json", "--broker", "127.0.0.1:1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    found = {check["name"]: check for check in report["checks"]}
    assert found["base packages"]["status"] == found["runs"]["status"] == "ok"
    assert "numpy" in found["base packages"]["detail"]
    assert not list(tmp_path.iterdir()), "doctor leaves nothing behind"
    assert main(["doctor", "--broker", "127.0.0.1:1"]) == 0
    assert "Ready." in capsys.readouterr().out


def test_doctor_fails_on_a_data_folder_that_is_not_there(capsys: Capture) -> None:
    assert main(["doctor", "--json", "--data", "/no/such", "--broker", "127.0.0.1:1"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_doctor_finds_what_is_missing(tmp_path: Path) -> None:
    assert checks._packages("x", ("numpy", "no-such-package"), needed=True, extra="").status == "failed"
    absent = checks._packages("x", ("no-such-package",), needed=False, extra="train")
    assert (absent.status, absent.advice) == ("note", "pip install 'fedmesh[train]'")
    assert checks._writable("runs", tmp_path / "no" / "folder").status == "failed"
    (tmp_path / "uci-har").mkdir()
    assert "har" in checks._data_sets(tmp_path).detail
    assert "fashion" in checks._data_sets(tmp_path).advice


STORY: list[Event] = [
    StepDone("data: [/red]digits", 0.4),
    StepDone("public start", 2.1),
    RunStarted("digits", 2, 1, 10),
    RoundStarted(1),
    StageStarted(1, "train", 2),
    DeviceReplied(1, "train", 0, 6000),
    DeviceFailed(1, "train", 1, "dropped out"),
    ModelChecked(1, 1.0, 0.0),
    RoundFinished(1, 10, 9, 0.8123, 0.61, 3.5, 6e3, 25e3, 1.25),
    RoundStarted(2),
    StageStarted(2, "train", 2),
    RoundFinished(2, 10, 10, 0.85, 0.5, None, 6e3, 25e3, 1.0),
    StepDone("final model and figures", 1.0),
    RunFinished(7.5),
]


def test_progress_in_lines(capsys: Capture) -> None:
    with progress(quiet=False) as sink:
        assert capsys.readouterr().err == "loading\n", "something shows before anything is loaded"
        for event in STORY:
            sink(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    *lines, last = captured.err.splitlines()
    assert re.fullmatch(r"done in \d+\.\d s", last)
    assert lines == [
        "data: [/red]digits: 0.4 s",
        "public start: 2.1 s",
        "digits: 10 devices, 2 rounds",
        "round 1/2: accuracy 81.2%, loss 0.610, epsilon 3.50, 9/10 devices, 1.2 s",
        "round 2/2: accuracy 85.0%, loss 0.500, 10/10 devices, 1.0 s",
        "final model and figures: 1.0 s",
    ]


def test_a_lost_round_is_told_with_its_reason(capsys: Capture) -> None:
    lost = RoundFinished(2, 10, 0, 0.8, 0.6, 3.5, 6e3, 25e3, 1.0, failed="6 of 10 devices are left")
    Lines().handle(lost)
    shown = capsys.readouterr().err
    assert "round 2/0: failed, the model is as it was (6 of 10 devices are left), epsilon 3.50, 0/10 devices" in shown
    with Progress(console=Console(file=io.StringIO()), auto_refresh=False) as bars:
        sink = Bars(bars).handle
        for event in (RunStarted("digits", 2, 1, 10), RoundStarted(2), lost):
            sink(event)
        assert "failed" in bars.tasks[0].fields["note"]


def test_a_resumed_run_says_where_it_goes_on(capsys: Capture) -> None:
    Lines().handle(RunStarted("digits", 20, 8, 10))
    assert "going on at round 8" in capsys.readouterr().err


def test_quiet_is_quiet(capsys: Capture) -> None:
    with progress(quiet=True) as sink:
        for event in STORY:
            sink(event)
    assert capsys.readouterr() == ("", "")


def test_progress_in_bars() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    shown = []
    with Progress(console=screen, auto_refresh=False) as bars:
        sink = Bars(bars)
        for event in STORY:
            sink.handle(event)
            shown.append([(task.description, task.completed, task.total) for task in bars.tasks])
        sink.close()
        left = [task.description for task in bars.tasks]
    assert ("Round 1/2", 0, 2) in shown[3]
    assert ("Devices", 2, 2) in shown[6]
    assert ("Finishing", 0, None) in shown[-1]
    assert left == ["Round 2/2"]
    assert "data: [/red]digits" in screen.file.getvalue()
    assert "public start" in screen.file.getvalue()


def test_bars_of_a_resumed_run_begin_where_it_goes_on() -> None:
    with Progress(console=Console(file=io.StringIO()), auto_refresh=False) as bars:
        sink = Bars(bars).handle
        sink(RunStarted("digits", 20, 8, 10))
        sink(RoundStarted(8))
        assert bars.tasks[0].completed == 7


def test_the_summary_tells_the_result(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "report.html").write_text("")
    print_summary(RESULT, tmp_path)
    shown = capsys.readouterr().out
    assert "87.3% int8 in ONNX Runtime, 87.7% float" in shown
    assert "for simulation only" in shown
    assert str(tmp_path / "report.html") in shown.splitlines()[-1]
    assert "result.json" not in shown, "only files that are there"


def test_the_summary_of_a_long_run_without_privacy(tmp_path: Path, capsys: Capture) -> None:
    row = RESULT["rounds"][0] | {"epsilon": None, "loss": None}
    final = RESULT["final"] | {"epsilon": None, "delta": None}
    long = RESULT | {"rounds": [row | {"round": n} for n in range(1, 101)], "final": final, "start": None}
    print_summary(long | {"latency_ms": {}}, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    numbered = [int(line.split()[0]) for line in lines if line.split()[1:2] == ["9/10"]]
    assert len(numbered) == 20
    assert (numbered[0], numbered[-1]) == (1, 100)
    assert "epsilon" not in "\n".join(lines[:4])
    assert any("no differential privacy" in line for line in lines)


def test_the_summary_tells_of_lite_devices(tmp_path: Path, capsys: Capture) -> None:
    print_summary(RESULT, tmp_path)
    assert "lite" not in capsys.readouterr().out
    devices = [{"tier": "lite"}, {"tier": "full"}, {"tier": "lite"}]
    print_summary(RESULT | {"devices": devices}, tmp_path)
    assert "2 of 3 devices are lite" in " ".join(capsys.readouterr().out.split())


def test_the_summary_tells_what_was_seen(tmp_path: Path, capsys: Capture) -> None:
    print_summary(RESULT, tmp_path)
    assert "each device's update by itself: no secure aggregation" in capsys.readouterr().out
    secure = {"enabled": True, "sums": 19, "smallest_sum": 7, "keys": "all in one place"}
    print_summary(RESULT | {"secure_aggregation": secure}, tmp_path)
    shown = capsys.readouterr().out
    assert "19 sums over 7 or more devices, no update by itself" in shown
    assert "keys all in one place" in shown
    print_summary(RESULT | {"secure_aggregation": secure | {"sums": 1}}, tmp_path)
    assert "1 sum over 7 or more devices" in capsys.readouterr().out
    print_summary(RESULT | {"secure_aggregation": secure | {"sums": 0}}, tmp_path)
    assert "nothing: no sum was unmasked" in capsys.readouterr().out


def test_the_summary_tells_how_many_rounds_were_lost_and_why(tmp_path: Path, capsys: Capture) -> None:
    print_summary(RESULT, tmp_path)
    assert "lost" not in capsys.readouterr().out
    rounds = [row | ({"failed": "too few [left]"} if row["round"] in {3, 5} else {}) for row in RESULT["rounds"]]
    rounds[6] |= {"failed": "late"}
    print_summary(RESULT | {"rounds": rounds}, tmp_path)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "lost 3 of 20 rounds, which left the model as it was" in lines
    assert "rounds 3, 5: too few [left]" in lines
    assert "round 7: late" in lines
    many = [row | {"failed": f"reason {row['round'] % 5}"} for row in RESULT["rounds"]]
    print_summary(RESULT | {"rounds": many}, tmp_path)
    assert "and 2 more reasons" in capsys.readouterr().out
