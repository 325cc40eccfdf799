"""The command line: what it loads, its exit codes, and one paragraph for every mistake."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedmesh.cli import main
from fedmesh.federation.scenarios import shipped

HEAVY = {"torch", "flwr", "onnxruntime", "opacus", "matplotlib", "sklearn", "onnx"}

Capture = pytest.CaptureFixture[str]


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after `code`, in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


def complaint(arguments: list[str], capsys: Capture, *, code: int = 2) -> str:
    """The one paragraph on stderr that `arguments` end with."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert "\n\n" not in captured.err.strip()
    return captured.err


def test_help_loads_nothing_heavy() -> None:
    modules = loaded_by("from fedmesh.cli import main; main(['--help'])")
    assert not modules & HEAVY
    assert "pydantic" not in modules


def test_an_identity_needs_neither_training_nor_flower() -> None:
    modules = loaded_by("import fedmesh.client.enrolling, fedmesh.transport.issuing")
    assert not modules & (HEAVY | {"pydantic", "scipy"})


def test_help_of_each_command_loads_nothing_heavy() -> None:
    commands = ["simulate", "infer", "scenarios", "strategies", "clients", "ca", "enroll", "doctor"]
    calls = "; ".join(f"main(['{command}', '--help'])" for command in commands)
    assert not loaded_by(f"from fedmesh.cli import main; {calls}") & (HEAVY | {"pydantic"})


def test_a_command_loads_no_other() -> None:
    script = "from fedmesh.cli import main; main(['client', 'run', '--help']); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    commands = {"simulate", "ledger", "model", "ca", "coordinator", "doctor", "client"}
    assert {name for name in commands if f"fedmesh.cli.{name}" in done.stdout.split()} == {"client"}


def test_importing_fedmesh_needs_nothing_else() -> None:
    assert loaded_by("import fedmesh") - loaded_by("") - sys.stdlib_module_names == {"fedmesh"}


@pytest.mark.parametrize("module", ["fleet.device", "fleet.receiving", "fleet.answering", "peer.running", "peer.node"])
def test_an_agent_that_waits_needs_no_numpy(module: str) -> None:
    assert not loaded_by(f"import fedmesh.{module}") & (HEAVY | {"numpy"})


@pytest.mark.parametrize("call", [["-m", "fedmesh"], ["-c", "import fedmesh.cli, sys; sys.exit(fedmesh.cli.main())"]])
def test_runs_as_a_process(call: list[str]) -> None:
    done = subprocess.run([sys.executable, *call, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fedmesh 0.1.0\n", "")


def test_help_lists_the_commands(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        word in shown for word in ("simulate", "infer", "scenarios", "strategies", "clients", "config", "doctor")
    )


def test_no_command_shows_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "simulate" in captured.out + captured.err
    assert "error" not in captured.err


def test_a_command_that_is_not_one(capsys: Capture) -> None:
    message = complaint(["simulte"], capsys)
    assert message.count("simulate") == 1
    assert "Try 'fedmesh --help'" in message


def test_an_option_that_is_not_one(capsys: Capture) -> None:
    assert "--rounds" in complaint(["simulate", "digits", "--round", "3"], capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "digts"], "did you mean digits"),
        (["simulate", "qqqq"], "there is no scenario 'qqqq': there are "),
        (["simulate", "no/such.toml"], "there is no scenario file no/such.toml"),
        (["simulate"], "which scenario?"),
        (["simulate", "digits", "--rounds", "0"], "'--rounds': 0 is not in the range x>=1"),
        (["simulate", "digits", "--rounds", "many"], "'many' is not a valid integer"),
        (["simulate", "digits", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["simulate", "digits", "--workers", "0"], "'--workers'"),
        (["simulate", "digits", "--set", "rounds"], "--set 'rounds' is not an assignment"),
        (["simulate", "digits", "--set", "=3"], "is not an assignment"),
        (["simulate", "digits", "--set", "rounds="], "has no value"),
        (["simulate", "digits", "--set", "rounds=[1"], "is not TOML"),
        (["simulate", "digits", "--set", "rounds=1.5"], "rounds: should be a valid integer"),
        (["simulate", "digits", "--set", "partition.devices=3"], "partition.devices: unknown key"),
        (["simulate", "digits", "--set", "partition.clients=0"], "partition.clients: should be greater"),
        (["simulate", "digits", "--set", "rounds.x=0"], "'rounds' is a value, not a table"),
        (["simulate", "digits", "--set", "privacy.epsilon=nan"], "privacy.epsilon: "),
        (["simulate", "digits", "--data", "/no/such"], "the data directory /no/such is not there"),
        (["simulate", "digits", "--resume", "x"], "takes no scenario"),
        (["simulate", "--resume", "x", "--rounds", "3"], "got --rounds"),
        (["simulate", "--resume", "x", "--seed", "3"], "got --seed"),
        (["simulate", "--resume", "x", "--seed", "0"], "got --seed"),
        (["simulate", "--resume", "x", "--out", "y"], "got --out"),
        (["simulate", "--resume", "x", "--set", "rounds=3"], "got --set"),
        (["config", "show", "digts"], "did you mean digits"),
        (["doctor", "--broker", "localhost:port", "--data", "/no/such", "extra"], "unexpected extra argument"),
    ],
)
def test_the_operators_mistakes(arguments: list[str], said: str, capsys: Capture) -> None:
    assert said in complaint(arguments, capsys)


def test_out_that_holds_something_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    message = complaint(["simulate", "digits", "--out", str(tmp_path)], capsys)
    assert "is not empty: choose another --out, or empty it" in message
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_out_that_holds_a_run_points_to_resume(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert f"--resume {tmp_path}" in complaint(["simulate", "digits", "--out", str(tmp_path)], capsys)


def test_out_that_cannot_be_written(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    message = complaint(["simulate", "digits", "--out", str(tmp_path / "file" / "run")], capsys)
    assert "cannot be written: Not a directory; choose another with --out" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_out_in_a_read_only_folder(tmp_path: Path, capsys: Capture) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in complaint(["simulate", "digits", "--out", str(tmp_path / "run")], capsys)


def test_a_scenario_that_is_not_toml(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe name = ")
    assert "is not a readable TOML file" in complaint(["config", "show", str(file)], capsys)


def test_config_show_prints_every_setting_as_toml(capsys: Capture) -> None:
    assert main(["config", "show", "digits", "--set", "rounds=3", "--set", "client.name=wearable"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["rounds"] == 3
    assert shown["client"]["name"] == "wearable"
    assert shown["delta"]["bits"] == 8
    assert main(["config", "show", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failures"]["deadline_s"] is None


def test_what_config_show_prints_is_a_scenario(tmp_path: Path, capsys: Capture) -> None:
    assert main(["config", "show", "digits"]) == 0
    shown = capsys.readouterr().out
    file = tmp_path / "again.toml"
    file.write_text(shown, encoding="utf-8")
    assert main(["config", "show", str(file)]) == 0
    assert capsys.readouterr().out == shown


def test_scenarios_lists_all(capsys: Capture) -> None:
    assert main(["scenarios", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(shipped())
    assert "digits" in shipped()
    assert main(["scenarios"]) == 0
    assert "digits" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "name"), [("strategies", "fedavg"), ("clients", "vision")])
def test_plugins_are_listed(command: str, name: str, capsys: Capture) -> None:
    assert main([command, "--json"]) == 0
    assert name in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert main([command]) == 0
    assert name in capsys.readouterr().out


def test_output_into_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m fedmesh config show digits | head -n 0"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_terminal_without_utf8_shows_something() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "fedmesh", "--help"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0
    assert b"simulate" in done.stdout


def test_ctrl_c_inside_the_import_of_a_compiled_module_is_still_ctrl_c(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def importing(*_: object, **__: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("fedmesh.simulation.run.simulate", importing)
    assert main(["simulate", "digits", "--out", str(tmp_path / "run"), "--quiet"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def running(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("fedmesh.simulation.run.simulate", running)
    assert main(["simulate", "digits", "--out", str(tmp_path / "run"), "--quiet"]) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
