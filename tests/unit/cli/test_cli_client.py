"""The commands of a device that need no broker."""

import json
import signal
import subprocess
import sys

import pytest
from device_fleet import Site, private_task

from fedmesh.cli import main
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.journal import DeviceJournal, KeptRun, Waiting
from fedmesh.client.policy import budgets_of
from fedmesh.fleet.device import JOURNAL, state_of
from fedmesh.privacy.settings import Budget
from fedmesh.wire import dumps


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_status_of_a_device_that_never_ran(site, capsys):
    assert main(["client", "status", str(site.path), "--json"]) == 0
    found = said(capsys)
    assert found["identity"]["name"] == "fedmesh://home/device-1"
    assert (found["identity"]["due"], found["identity"]["expired"]) == (False, False)
    assert (found["tier"], found["clients"], found["running"], found["runs"]) == ("lite", ["lite"], False, [])
    assert found["privacy"]["example"] == {"budget": 8.0, "delta": 1e-5, "spent": 0.0, "charges": 0, "error": ""}
    assert not site.state.exists()  # looking changes nothing


def test_status_of_a_device_at_work(site, capsys):
    device = site.device()
    home = EnrolledHome(device.config.identity.folder, site.state, budgets=budgets_of(device.config))
    with home.ledger(0, "head", Budget("example", 8.0, 1e-5)) as ledger:
        ledger.charge(private_task().dp.event("head/round-1"))
    journal = DeviceJournal(site.state / JOURNAL)
    journal.keep(KeptRun(7, "coordinator", dumps({"name": "digits"}), b"", b""))
    journal.receive(Waiting(7, "m", "train", 1, 1e12, (b"",)))
    with state_of(site.state):
        assert main(["client", "status", str(site.path), "--json"]) == 0
        found = said(capsys)
        assert found["running"] is True
        assert found["runs"] == [{"run": 7, "name": "digits", "coordinator": "coordinator", "waiting": 1}]
        assert found["privacy"]["example"]["charges"] == 1
        assert 0 < found["privacy"]["example"]["spent"] < 8
        assert main(["client", "status", str(site.path)]) == 0
        text = capsys.readouterr().out
        assert "agent: runs" in text
        assert "run 7 (digits) of coordinator, 1 waiting" in text
    journal.close()


def test_a_damaged_ledger_is_said(site, capsys):
    site.device()
    folder = site.state / "ledgers"
    folder.mkdir()
    (folder / "device-1.ledger").write_text("nonsense\n" * 3)
    assert main(["client", "status", str(site.path)]) == 0
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "status"])
def test_what_the_operator_got_wrong(site, capsys, command):
    assert main(["client", command, str(site.folder / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
    site.write(indentity={"folder": "x"})
    assert main(["client", command, str(site.path)]) == 2
    assert "did you mean identity" in capsys.readouterr().err
    site.write(identity={"folder": "nobody"})
    assert main(["client", command, str(site.path)]) == 2
    assert "enroll" in capsys.readouterr().err
    assert main(["client", command]) == 2
    assert "CONFIG" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_that_is_not_there_is_said_and_waited_for(site, number):
    command = [sys.executable, "-m", "fedmesh", "client", "run", str(site.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        while "Trying again and again" not in "".join(lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        process.send_signal(number)
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_one_agent_at_a_time(site, capsys):
    site.device()
    with state_of(site.state):
        assert main(["client", "run", str(site.path)]) == 2
    assert "another agent runs" in capsys.readouterr().err


def test_another_budget_than_the_ledgers(site, capsys):
    device = site.device()
    home = EnrolledHome(device.config.identity.folder, site.state, budgets=budgets_of(device.config))
    with home.ledger(0, "head", Budget("example", 8.0, 1e-5)):
        pass
    site.write(privacy={"required": False, "example_epsilon": 9.0})
    assert main(["client", "run", str(site.path)]) == 2
    assert "not changed on the way" in capsys.readouterr().err
