"""When a device works: rules against facts, and the facts from where Linux keeps them."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedmesh.client.eligibility import Facts, reason
from fedmesh.client.facts import ask, read_facts
from fedmesh.configuration.device import EligibilitySection
from fedmesh.configuration.section import parsed
from fedmesh.fleet.protocol import REASONS
from fedmesh.machine import cores

NIGHT, DAY = datetime(2026, 3, 2, 23, 30, tzinfo=UTC), datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def rules(**tables: object) -> EligibilitySection:
    return parsed(EligibilitySection, tables, source="a test")


@pytest.mark.parametrize(
    ("tables", "facts", "why"),
    [
        ({}, Facts(DAY, discharging=True, charge=0.01, metered=True, load=99.0), ""),
        ({"windows": ["22:00-06:00"]}, Facts(NIGHT), ""),
        ({"windows": ["22:00-06:00"]}, Facts(DAY), "schedule"),
        ({"windows": ["22:00-06:00", "11:00-13:00"]}, Facts(DAY), ""),
        ({"on_power": True}, Facts(DAY, discharging=True, charge=1.0), "power"),
        ({"on_power": True}, Facts(DAY, charge=0.3), ""),
        ({"min_battery": 0.5}, Facts(DAY, charge=0.49), "battery"),
        ({"min_battery": 0.5}, Facts(DAY, charge=0.5), ""),
        ({"min_battery": 0.5}, Facts(DAY), ""),
        ({"unmetered": True}, Facts(DAY, metered=True), "network"),
        ({"unmetered": True}, Facts(DAY), "network"),
        ({"unmetered": True}, Facts(DAY, metered=False), ""),
        ({"max_load": 0.5}, Facts(DAY, load=0.5), "busy"),
        ({"max_load": 0.5}, Facts(DAY, load=0.49), ""),
        ({"max_load": 0.5}, Facts(DAY), "busy"),
        ({"hook": "mine:asked"}, Facts(DAY, hook=True), ""),
        ({"hook": "mine:asked"}, Facts(DAY, hook=False), "hook"),
        ({"hook": "mine:asked"}, Facts(DAY), "hook"),
    ],
)
def test_rules_against_facts(tables, facts, why):
    assert reason(rules(**tables), facts) == why
    assert why in REASONS


def supply(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text + "\n")


def test_batteries(tmp_path):
    supply(tmp_path, "AC", type="Mains", online="0")
    assert read_facts(DAY, root=tmp_path).charge is None
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity="37")
    supply(tmp_path, "BAT1", type="Battery", status="Full", capacity="100")
    supply(tmp_path, "mouse", type="Battery", status="Discharging", capacity="3", scope="Device")
    facts = read_facts(DAY, root=tmp_path)
    assert (facts.discharging, facts.charge) == (True, 0.37)
    (tmp_path / "sys/class/power_supply/BAT0/status").write_text("Charging\n")
    (tmp_path / "sys/class/power_supply/BAT0/capacity").write_text("nonsense\n")
    facts = read_facts(DAY, root=tmp_path)
    assert (facts.discharging, facts.charge) == (False, 1.0)


HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("rows", "metered"),
    [
        ("eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", False),
        ("wwan0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", True),
        ("eth0\t00000000\t0\t3\t0\t0\t0\t0\t0\t0\t0\nppp0\t00000000\t0\t3\t0\t0\t9\t0\t0\t0\t0\n", True),
        ("wwan0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", False),  # no default route
    ],
)
def test_networks(tmp_path, rows, metered):
    (tmp_path / "proc/net").mkdir(parents=True)
    assert read_facts(DAY, root=tmp_path).metered is None
    (tmp_path / "proc/net/route").write_text(HEAD + rows)
    assert read_facts(DAY, root=tmp_path).metered is metered


def test_a_default_route_of_ipv6(tmp_path):
    (tmp_path / "proc/net").mkdir(parents=True)
    row = f"{'0' * 32} 00 {'0' * 32} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003  wwan0\n"
    (tmp_path / "proc/net/ipv6_route").write_text(row)
    assert read_facts(DAY, root=tmp_path).metered is True
    (tmp_path / "proc/net/ipv6_route").write_text(row.replace("wwan0", "   lo"))  # what rejects, has no way
    assert read_facts(DAY, root=tmp_path).metered is False


def test_the_load_is_that_of_a_core(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("3.00 2.00 1.00 1/99 12345\n")
    assert read_facts(DAY, root=tmp_path).load == 3.0 / cores()


def test_this_machine_has_facts():
    facts = read_facts(DAY)
    assert facts.load is not None
    assert facts.metered is not None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return True", True),
        ("return []", False),
        ("raise RuntimeError", None),
        ("import os; os._exit(9)", None),
        ("import time; time.sleep(60)", None),
    ],
)
def test_a_hook_is_asked_in_a_process_of_its_own(tmp_path, monkeypatch, body, said):
    (tmp_path / "my_hook.py").write_text(f"def asked():\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    patience_s = 2.0 if "sleep" in body else 60.0
    assert asyncio.run(ask("my_hook:asked", timeout_s=patience_s)) is said
