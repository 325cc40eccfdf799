"""`kill -9` between the ledger, the anchor and the step, with real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killing import KILLED_OVER_AND_OVER, run

from fedmesh.errors import LedgerError
from fedmesh.privacy import Anchor, FileLedger
from fedmesh.privacy.accountant import gaussian
from fedmesh.privacy.chain import parse

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

PARTS = """
import os, signal, sys
from pathlib import Path
from fedmesh.privacy import Anchor, FileLedger, epsilon
from fedmesh.privacy.accountant import gaussian

folder = Path(sys.argv[1])
event = gaussian(2.0, 1, "digits/round")

def opened():
    return FileLedger(folder / "l", epsilon=1e6, delta=1e-5, anchor=Anchor(folder / "device-0.anchor"))
"""

DEVICE = f"""{PARTS}
steps = folder / "steps"
epsilon([event], 1e-5, "rdp")  # what takes long is done once, before the forks
Anchor.create(folder / "device-0.anchor")
{KILLED_OVER_AND_OVER}
for _ in kill_devices(int(sys.argv[2]), seed=1, longest_s=0.004):
    known = Anchor(folder / "device-0.anchor").heads().get("example")
    with opened() as ledger:
        print(len(ledger.charges), size(), known.entries if known else 0, ledger.head.entries, flush=True)
"""


def test_no_kill_leaves_a_step_uncharged_an_anchor_ahead_or_a_device_locked_out(tmp_path: Path) -> None:
    """Forty kills at random moments. The anchor is behind by at most the one entry whose update was cut off."""
    kills = 40
    done = run(DEVICE, tmp_path, kills)
    assert done.returncode == 0, done.stderr
    seen = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(seen) == kills
    for number, (charged, taken, anchored, entries) in enumerate(seen, start=1):
        assert taken <= charged <= taken + number
        assert anchored <= entries <= anchored + 1
    assert seen[-1][1] > kills  # the devices got somewhere between the kills
    leftovers = [path.name for path in tmp_path.iterdir() if path.name.startswith(".device-0.anchor")]
    assert len(leftovers) <= kills  # halves of anchors that never came to be; they are not read


@pytest.mark.parametrize(
    ("cut", "anchored"),
    [
        ("ledger._anchor_head = kill", 1),  # the ledger was written, the anchor was not begun
        ("anchor.write_atomically = kill", 1),  # its lock was held
        ("files.sync_folder = kill", 2),  # the new anchor has its name
        ("finish = kill", 2),  # all is written, the step was not taken
    ],
)
def test_a_kill_at_each_point_of_a_charge_is_charged_and_taken_up(tmp_path: Path, cut: str, anchored: int) -> None:
    script = f"""{PARTS}
from fedmesh import files
from fedmesh.privacy import anchor

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def finish():
    pass

Anchor.create(folder / "device-0.anchor")
ledger = opened()
{cut}
ledger.charge(event)
finish()
"""
    assert run(script, tmp_path).returncode == -signal.SIGKILL
    anchor = Anchor(tmp_path / "device-0.anchor")
    assert anchor.heads()["example"].entries == anchored
    with FileLedger(tmp_path / "l", epsilon=1e6, delta=1e-5, anchor=anchor) as ledger:
        assert [charge.event for charge in ledger.charges] == [gaussian(2.0)]
        assert anchor.heads() == {"example": ledger.head}
        ledger.charge(gaussian(2.0))


def test_a_kill_between_the_first_entry_and_the_anchor_leaves_a_ledger(tmp_path: Path) -> None:
    script = f"""{PARTS}
Anchor.create(folder / "device-0.anchor")
FileLedger._anchor_head = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
opened()
"""
    assert run(script, tmp_path).returncode == -signal.SIGKILL
    anchor = Anchor(tmp_path / "device-0.anchor")
    assert anchor.heads() == {}
    assert len(parse((tmp_path / "l").read_bytes()).heads) == 1
    with FileLedger(tmp_path / "l", epsilon=1e6, delta=1e-5, anchor=anchor) as ledger:
        assert anchor.heads() == {"example": ledger.head}


def test_a_kill_while_an_identity_is_made_leaves_no_key_without_an_anchor(tmp_path: Path) -> None:
    script = """
    import os, signal, sys
    from pathlib import Path
    from fedmesh.client import identities

    writing = identities.write_atomically

    def kill(path, *arguments, **options):
        if path.name == "device-1.key":
            os.kill(os.getpid(), signal.SIGKILL)
        writing(path, *arguments, **options)

    identities.write_atomically = kill
    identities.create_identities(Path(sys.argv[1]), 3)
    """
    assert run(script, tmp_path).returncode == -signal.SIGKILL
    names = {path.name for path in tmp_path.iterdir()}
    assert {"device-0.key", "device-0.anchor", "device-1.anchor"} <= names
    assert "device-1.key" not in names

    from fedmesh.client.identities import anchor_path, create_identities

    create_identities(tmp_path, 3)
    assert all(Anchor(anchor_path(tmp_path, f"device-{number}")).heads() == {} for number in range(3))


def test_two_processes_that_charge_on_both_levels_share_the_anchor(tmp_path: Path) -> None:
    script = f"""{PARTS}
level = sys.argv[2]
with FileLedger(folder / level, epsilon=1e6, delta=1e-5, level=level, anchor=Anchor(folder / "device-0.anchor")) as l:
    for _ in range(50):
        l.charge(event)
"""
    anchor = Anchor.create(tmp_path / "device-0.anchor")
    command = [sys.executable, "-c", script, str(tmp_path)]
    children = [subprocess.Popen([*command, level]) for level in ("example", "client")]
    assert [child.wait(timeout=120) for child in children] == [0, 0]
    assert {level: head.entries for level, head in anchor.heads().items()} == {"example": 51, "client": 51}
    (tmp_path / "client").unlink()
    with pytest.raises(LedgerError, match="is missing"):
        FileLedger(tmp_path / "client", epsilon=1e6, delta=1e-5, level="client", anchor=anchor)
