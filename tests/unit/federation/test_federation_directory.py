"""The run directory: what is there at which moment, so that an interruption leaves a run or nothing."""

from pathlib import Path

import pytest

from fedmesh.errors import ConfigError
from fedmesh.federation import directory
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.scenario import Scenario

SCENARIO = Scenario.parse({"name": "small"}, source="test")


def test_ledgers_have_their_folder_before_there_is_a_run_to_resume(tmp_path: Path, monkeypatch) -> None:
    seen = []
    real = directory.write_atomically

    def write(path: Path, data: bytes) -> None:
        seen.append((path.name, (tmp_path / "ledgers").is_dir()))
        real(path, data)

    monkeypatch.setattr(directory, "write_atomically", write)
    RunDirectory.create(tmp_path, SCENARIO, "d")
    assert seen == [("run.json", True)]
    assert RunDirectory.open(tmp_path).scenario == SCENARIO


def test_a_run_that_could_not_be_created_leaves_the_folder_empty(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise ConfigError(f"cannot write {path}: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(directory, "write_atomically", full)
        with pytest.raises(ConfigError, match="no space"):
            RunDirectory.create(tmp_path, SCENARIO, "d")
    RunDirectory.create(tmp_path, SCENARIO, "d")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory.create(tmp_path, SCENARIO, "d")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
