"""`kill -9` and full disks between the ledger and the step, with real processes and file systems."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import KILLED_OVER_AND_OVER, run

from fedmesh.errors import LedgerError
from fedmesh.privacy import DpSettings, FileLedger
from fedmesh.privacy.chain import parse

ROUND = DpSettings(1e6, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")

DEVICE = f"""
import sys
from pathlib import Path
from fedmesh.privacy import DpSettings, FileLedger
from fedmesh.privacy.accountant import epsilon

path, steps = Path(sys.argv[1]), Path(sys.argv[2])
event = DpSettings(1e6, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")
epsilon([event], 1e-5, "rdp")  # what takes long is done once, before the forks

def opened():
    return FileLedger(path, epsilon=1e6, delta=1e-5)
{KILLED_OVER_AND_OVER}
for _ in kill_devices(int(sys.argv[3]), seed=1, longest_s=0.003):
    with opened() as ledger:
        charges = len(ledger.charges)
    print(charges, size(), flush=True)
"""


def test_no_step_is_ever_taken_that_was_not_charged(tmp_path: Path) -> None:
    """Thirty kills at random moments: a kill leaves at most one charge without its step, and never a step without."""
    kills = 30
    done = run(DEVICE, tmp_path / "device.ledger", tmp_path / "steps", kills)
    assert done.returncode == 0, done.stderr
    seen = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(seen) == kills
    for number, (charged, taken) in enumerate(seen, start=1):
        assert taken <= charged <= taken + number
    assert seen[-1][1] > kills  # the devices got somewhere between the kills
    assert len(parse((tmp_path / "device.ledger").read_bytes()).charges) == seen[-1][0]


def test_a_kill_between_charge_and_step_is_charged(tmp_path: Path) -> None:
    path = tmp_path / "device.ledger"
    script = """
    import os, signal, sys
    from fedmesh.privacy import DpSettings, FileLedger
    ledger = FileLedger(sys.argv[1], epsilon=1e6, delta=1e-5)
    ledger.charge(DpSettings(1e6, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round"))
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(script, path).returncode == -signal.SIGKILL
    with FileLedger(path, epsilon=1e6, delta=1e-5) as ledger:
        assert [charge.event for charge in ledger.charges] == [ROUND]


def test_another_process_cannot_hold_it_and_death_lets_go_of_it(tmp_path: Path) -> None:
    path = tmp_path / "device.ledger"
    script = """
    import sys, time
    from fedmesh.privacy import FileLedger
    ledger = FileLedger(sys.argv[1], epsilon=8.0, delta=1e-5)
    print("held", flush=True)
    time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LedgerError, match="another process"):
            FileLedger(path, epsilon=8.0, delta=1e-5)
        other.kill()
        other.wait()
    FileLedger(path, epsilon=8.0, delta=1e-5).close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two pages."""
    place = tmp_path / "disk"
    place.mkdir()
    size = 2 * os.sysconf("SC_PAGESIZE")
    mounted = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    if not mounted:
        pytest.skip("mounting a tmpfs needs root and CAP_SYS_ADMIN; the unit tests fill a disk by RLIMIT_FSIZE instead")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def charge_without_end(ledger: FileLedger) -> None:
    while True:
        ledger.charge(ROUND)


def test_a_full_disk_stops_the_steps_and_loses_nothing(tiny_disk: Path) -> None:
    path = tiny_disk / "device.ledger"
    with FileLedger(path, epsilon=1e6, delta=1e-5) as ledger:
        with pytest.raises(LedgerError, match="No space left on device"):
            charge_without_end(ledger)
        charged = len(ledger.charges)
    assert charged > 10
    with FileLedger(path, epsilon=1e6, delta=1e-5) as ledger:
        assert len(ledger.charges) == charged


def test_a_disk_that_became_read_only_stops_the_steps(tiny_disk: Path) -> None:
    path = tiny_disk / "device.ledger"
    with FileLedger(path, epsilon=1e6, delta=1e-5) as ledger:
        ledger.charge(ROUND)
    assert mount("-o", "remount,ro", str(tiny_disk))
    with pytest.raises(LedgerError, match="Read-only file system"):
        FileLedger(path, epsilon=1e6, delta=1e-5)
    with pytest.raises(LedgerError, match="Read-only file system"):
        FileLedger(tiny_disk / "new.ledger", epsilon=1e6, delta=1e-5)


def test_light_parts_import_no_heavy_ones() -> None:
    """A device that only keeps its ledger, or a scenario that is only read, loads neither torch nor Opacus."""
    script = """
    import sys
    import fedmesh.privacy
    from fedmesh.privacy import DpSettings, FileLedger, KeyedNoise, SystemNoise, release_id
    heavy = {"torch", "opacus", "dp_accounting", "scipy"} & set(sys.modules)
    assert not heavy, heavy
    import logging
    from fedmesh.privacy import DpSgd
    assert "opacus" not in sys.modules
    import torch
    DpSgd(torch.nn.Linear(2, 2), DpSettings(8.0, 1e-5, 1.0, 2.0, 0.25, 4, 32.0), learning_rate=0.1)
    assert "opacus" in sys.modules
    import fedmesh.privacy.preload
    assert logging.getLogger().handlers == []
    """
    done = run(script)
    assert done.returncode == 0, done.stderr
