"""``fedmesh config check``: what is found wrong with a file without contacting anybody."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from meshes import NOW, Mesh

from fedmesh.cli import main
from fedmesh.cli.config_check import kind_of
from fedmesh.cli.config_client import examine_client
from fedmesh.cli.config_coordinator import examine_coordinator
from fedmesh.cli.config_learner import _NEEDS
from fedmesh.configuration import ClientConfig, CoordinatorConfig
from fedmesh.errors import ConfigError
from fedmesh.federation.scenarios import shipped

CLIENT = """
tier = "lite"
[identity]
folder = "device-1"
[broker]
host = "localhost"
[state]
folder = "state"
[data]
kind = "npz"
path = "examples.npz"
"""
COORDINATOR = """
[identity]
folder = "device-1"
[broker]
host = "localhost"
[data]
folder = "state"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an enrolled party and its examples; enrolled now, as the command looks at the clock."""
    Mesh(tmp_path, begun=time.time()).enrol()
    np.savez(tmp_path / "examples.npz", x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int64))
    return tmp_path


def checked(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and name -> (status, all that is said)."""
    code = main(["config", "check", str(file), "--json", *arguments])
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (code == 0)
    return code, {check["name"]: (check["status"], f"{check['detail']} {check['advice']}") for check in told["checks"]}


def written(folder: Path, text: str) -> Path:
    (folder / "mine.toml").write_text(text)
    return folder / "mine.toml"


def test_a_device_that_is_ready(place, capsys):
    code, told = checked(written(place, CLIENT), capsys)
    assert code == 0, told
    assert {status for status, _ in told.values()} == {"ok", "note"}
    assert "device-1 of the mesh home" in told["identity"][1]
    assert "at most epsilon 8 " in told["privacy"][1]
    assert told["metrics"][0] == "note"


def test_the_list_for_people_says_the_same(place, capsys):
    assert main(["config", "check", str(written(place, CLIENT))]) == 0
    assert capsys.readouterr().out.rstrip().endswith("Ready.")
    (place / "examples.npz").unlink()
    assert main(["config", "check", str(place / "mine.toml")]) == 2
    assert capsys.readouterr().out.rstrip().endswith("1 failed.")


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (("device-1", "nobody"), "identity", "nobody is enrolled in"),
        (("examples.npz", "none.npz"), "data", "there is no file"),
        (("examples.npz", "mine.toml"), "data", "cannot be read"),
        (("examples.npz", "device-1/none"), "data", "there is no file"),
        (('folder = "state"', 'folder = "mine.toml/state"'), "state", "is a file"),
        (("[broker]", "[brokr]"), "file", "did you mean broker?"),
        (('kind = "npz"', 'kind = "hook"'), "file", "data.function: is missing"),
        (('tier = "lite"', 'tier = "lite"\nclients = ["no_such"]'), "clients", "not installed: no_such"),
        (("[broker]", '[registry]\ntrusted_root = "none"\n[broker]'), "registry", "No such file"),
        (("[broker]", '[registry]\ntrusted_root = "mine.toml"\n[broker]'), "registry", "is not TUF metadata"),
    ],
)
def test_what_is_wrong_with_a_device_is_named(place, capsys, change, check, said):
    code, told = checked(written(place, CLIENT.replace(*change)), capsys)
    assert code == 2
    assert told[check][0] == "failed"
    assert said in told[check][1]


@pytest.mark.parametrize(
    ("more", "check", "said"),
    [
        ("[privacy]\nrequired = false", "privacy", "WITHOUT privacy"),
        ('[privacy]\nmodes = ["central"]', "privacy", "the server sees updates without noise"),
        ("[secure_aggregation]\nrequired = false", "secure aggregation", "the server may see"),
        ('[metrics]\nlisten = "0.0.0.0:9464"', "metrics", "anyone who reaches that address"),
        (
            '[inference]\nthreshold = 0.5\nhandoff = "http://big/predict"\n[registry]\ntrusted_root = "root.json"',
            "hand-off",
            "use https",
        ),
    ],
)
def test_what_is_allowed_and_careless_is_a_note(place, capsys, more, check, said):
    (place / "root.json").write_text('{"signed": {"_type": "root", "version": 1, "expires": "2030-01-01T00:00:00Z"}}')
    code, told = checked(written(place, CLIENT + more), capsys)
    assert code == 0
    assert told[check][0] == "note"
    assert said in told[check][1]


def test_a_file_of_arrays_without_labels(place, capsys):
    np.savez(place / "examples.npz", x=np.zeros(1), z=np.zeros(1))
    assert "has x, z, and no y" in checked(written(place, CLIENT), capsys)[1]["data"][1]


def test_the_root_of_a_registry(place, capsys):
    text = CLIENT + '[registry]\ntrusted_root = "root.json"'
    for kind, status in [("root", "ok"), ("targets", "failed")]:
        signed = {"_type": kind, "version": 3, "expires": "2030-01-01T00:00:00Z"}
        (place / "root.json").write_text(json.dumps({"signed": signed}))
        assert checked(written(place, text), capsys)[1]["registry"][0] == status


@pytest.mark.parametrize(
    ("days", "status", "said"), [(1, "ok", "good until"), (11, "note", "it is due"), (31, "failed", "it has expired")]
)
def test_a_certificate_ends(tmp_path, days, status, said):
    Mesh(tmp_path).enrol()
    config = ClientConfig.load(written(tmp_path, CLIENT))
    found = {check.name: check for check in examine_client(config, NOW + days * 86_400)}["identity"]
    assert found.status == status
    assert said in f"{found.detail} {found.advice}"


def test_a_clock_that_is_not_set_is_a_note(tmp_path):
    Mesh(tmp_path).enrol()
    config = ClientConfig.load(written(tmp_path, CLIENT))
    found = {check.name: check for check in examine_client(config, NOW - 86_400)}["identity"]
    assert found.status == "note"
    assert "clock is before its beginning" in found.advice


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (
            'kind = "hook"\nfunction = "no_such_module_here.sub:load"',
            "failed",
            "there is no module no_such_module_here",
        ),
        ('kind = "hook"\nfunction = "json:loads"', "ok", "json:loads; it is called when the device trains"),
        ('kind = "dataset"\nname = "digits"\npartition = 1\nof = 4', "note", "part 1 of 4 of digits"),
        ('kind = "dataset"\nname = "har"\npartition = 1\nof = 4\nfolder = "none"', "failed", "none is not a folder"),
    ],
)
def test_where_examples_come_from(place, capsys, data, status, said):
    text = CLIENT[: CLIENT.index("kind =")] + data
    found = checked(written(place, text), capsys)[1]["data"]
    assert found[0] == status
    assert said in found[1]


@pytest.mark.parametrize(("tier", "advice"), [("lite", "--force-reinstall fedmesh"), ("full", "'fedmesh[train]'")])
def test_a_package_that_a_tier_needs(place, capsys, monkeypatch, tier, advice):
    monkeypatch.setitem(_NEEDS, tier, ("no_such_package_here",))
    found = checked(written(place, CLIENT.replace("lite", tier)), capsys)[1]["tier"]
    assert found[0] == "failed"
    assert f"{tier} needs no_such_package_here" in found[1]
    assert advice in found[1]


def test_a_device_that_was_revoked_finds_out(tmp_path):
    mesh = Mesh(tmp_path)
    device = mesh.enrol()
    mesh.issuer.revoke("device-1", NOW)
    roster, revocations = mesh.issuer.lists(NOW)
    device.accept(NOW, roster=roster, revocations=revocations)
    config = ClientConfig.load(written(tmp_path, CLIENT))
    found = {check.name: check for check in examine_client(config, NOW)}
    assert found["identity"].status == "failed"
    assert "revoked" in found["identity"].detail
    assert "not on this device's roster: coordinator" in found["coordinators"].detail


def test_a_coordinator_with_several_tasks(place, capsys):
    text = COORDINATOR + '[[task]]\nscenario = "digits"\n[[task]]\nscenario = "mnist"\ndevices = ["device-1"]'
    code, told = checked(written(place, text), capsys)
    assert code == 2
    assert told["task.0"] == ("ok", "digits: 20 rounds, epsilon 8 (local), secure aggregation ")
    assert "but only 1 of 1 devices are asked" in told["task.1"][1]
    assert told["models"] == ("note", "of several tasks none are delivered name one as [registry] task")
    for named, status in (("digits", "ok"), ("digitz", "failed")):
        _, told = checked(written(place, f'{text}\n[registry]\ntask = "{named}"'), capsys)
        assert told["models"][0] == status


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ('scenario = "digitz"', "did you mean digits?"),
        ('scenario = "none.toml"', "there is no scenario file"),
        ('scenario = "digits"\ndevices = ["a", "b", "c", "d"]', "not on the roster: a, b, c, d"),
        ('scenario = "digits"\nround.wanted = 3', "among at least 4, but only 3"),
        ('scenario = "digits"\nround = { wanted = 4, over_selection = 1.5 }', "lower over_selection"),
        ('scenario = "digits"\n[[task]]\nscenario = "copy.toml"', "another task is called 'digits'"),
    ],
)
def test_what_is_wrong_with_a_task_is_named(place, capsys, task, said):
    (place / "copy.toml").write_bytes(shipped()["digits"].read_bytes())
    code, told = checked(written(place, f"{COORDINATOR}[[task]]\n{task}"), capsys)
    assert code == 2
    assert any(said in text for _, text in told.values()), told


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("sqlite:///runs.db", "ok", ""),
        ("sqlite:///:memory:", "note", "gone with the process"),
        ("sqlite:////proc/none/runs.db", "failed", "/proc"),
        ("postgresql+no_such_driver://fm:hunter2@db/runs", "failed", "no_such_driver is not installed"),
    ],
)
def test_the_journal_of_a_coordinator(tmp_path, url, status, said, monkeypatch):
    text = f'{COORDINATOR}[[task]]\nscenario = "digits"\n[journal]\nurl = "{url}"'
    # Root may write everywhere; who else may not, is the kernel's business.
    monkeypatch.setattr("fedmesh.cli.config_places.os.access", lambda place, _: not str(place).startswith("/proc"))
    config = CoordinatorConfig.load(written(tmp_path, text))
    found = {check.name: check for check in examine_coordinator(config, NOW)}["journal"]
    assert found.status == status
    assert said in f"{found.detail} {found.advice}"
    assert "hunter2" not in f"{found.detail} {found.advice}"


def test_the_kind_of_a_file_shows_in_its_keys():
    assert kind_of({"name": "a", "rounds": 3}, "f") == "scenario"
    assert kind_of({"identity": {}, "task": []}, "f") == "coordinator"
    assert kind_of({"identity": {}, "tier": "lite"}, "f") == "client"
    assert kind_of({"identity": {}, "mesh": {}, "registry": {}}, "f") == "peer"
    assert kind_of({"data": {}, "secure_aggregation": {}, "partition": {}}, "f") == "scenario"
    with pytest.raises(ConfigError, match="f has no key that tells"):
        kind_of({"data": {}}, "f")
    with pytest.raises(ConfigError, match="keys of coordinator and client: a scenario has"):
        kind_of({"task": [], "state": {}}, "f")


def test_a_file_can_be_said_to_be_of_a_kind(place, capsys):
    code, told = checked(written(place, "[data]\nfolder = 'a'"), capsys, "--kind", "coordinator")
    assert code == 2
    assert "task: is missing" in told["file"][1]
    assert main(["config", "check", str(place / "mine.toml"), "--kind", "device"]) == 2
    assert "wanted scenario, coordinator, client or peer" in capsys.readouterr().err


def test_a_scenario_whose_parts_are_not_installed(tmp_path, capsys):
    code, told = checked(written(tmp_path, 'name = "mine"\n[strategy]\nname = "no_such"'), capsys)
    assert code == 2
    assert "'no_such' is not one of the strategies installed" in told["plug-ins"][1]


@pytest.mark.parametrize("name", ["none.toml", "/tmp", "a/b"])
def test_a_file_that_is_not_there(name, capsys):
    assert main(["config", "check", name]) == 2
    assert f"there is no file {name}" in capsys.readouterr().err


def test_a_scenario_by_its_name(capsys):
    assert main(["config", "check", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "scenario"
