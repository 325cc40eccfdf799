"""{device, coordinator, broker} x {moments of a round} x {kill -9, restart, cut, slow}, in one process.

What has to hold afterwards is `fault_checks.check`; what each fault costs is in docs/reliability.md, and here. A case
alone: ``pytest "tests/integration/test_fault_matrix.py::test_a_round[device-1-kill-train-charged]"``.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
from fault_checks import check
from faulty_fleet import COORDINATOR, OFFER, Fault, Rig, Site, play

from fedmesh.events import RoundFinished

DEVICES, ROUNDS = 4, 3
STRUCK = {"advertise": 1, "share": 1}
"""Keys of later rounds are exchanged on the messages of the round before: the other steps are struck in round 2."""
STEPS = ("advertise", "share", "train", "sign", "unmask")
OF_A_DEVICE = [
    *((OFFER, point) for point in ("arrived", "answering")),
    *((step, point) for step in STEPS for point in ("arrived", "asked", "ran", "kept", "posted")),
    *(("train", point) for point in ("charging", "charged", "trained")),
]
OF_A_ROUND = [
    (OFFER, "prepared"),
    *((step, point) for step in STEPS for point in ("asking", "hearing")),
    ("commit", "before"),
    ("commit", "after"),
]
KINDS = ("kill", "restart", "cut", "slow")
QUICK = {("train", "charged"), ("sign", "hearing"), ("unmask", "ran"), (OFFER, "answering"), ("commit", "before")}
"""Run everywhere; the others by `make faults`."""

LOST = {("advertise", "ran"), *(("train", point) for point in ("asked", "charging", "charged", "trained", "ran"))}
"""A device that is killed there is missing in the round's sum: it may have said, or paid for, what it cannot repeat."""
COSTLY = {("sign", "hearing"), ("unmask", "asking"), ("unmask", "hearing"), ("commit", "before")}
"""A coordinator that is killed there loses the round: devices sign one set of survivors a round."""

UNHEARD = (COORDINATOR, "restart", "sign", "asking")
"""While it stops in good order, devices may sign what they were asked, and are not heard: then the round is lost."""


def moments():
    for actor, found in (("device-1", OF_A_DEVICE), (COORDINATOR, OF_A_ROUND), ("broker", OF_A_ROUND)):
        for step, point in found:
            number = 0 if step == OFFER else STRUCK.get(step, 2)
            for kind in KINDS:
                fault = Fault(actor, kind, step, point, number, lasts_s=3.0 if kind == "slow" else 0.2)
                marks = [] if (step, point) in QUICK and kind != "slow" else [pytest.mark.slow, pytest.mark.exhaustive]
                yield pytest.param(fault, id=f"{actor}-{kind}-{step}-{point}", marks=marks)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), DEVICES, ROUNDS)


@pytest.fixture
def folder(tmp_path):
    """In memory where it can be: processes are cut off here, not power, and journals sync with every step."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    found = Path(tempfile.mkdtemp(prefix="fedmesh-faults-", dir=memory))
    yield found
    shutil.rmtree(found)


def survivors(rig: Rig) -> list[int]:
    return [event.survivors for event in rig.events(RoundFinished)]


@pytest.mark.parametrize("fault", list(moments()))
def test_a_round(site, folder, fault):
    rig = play(site, folder, fault, deadline_s=2.0 if fault.kind == "slow" else 60.0)
    check(rig, reached=fault.kind != "slow")
    if fault.kind == "slow":
        return  # the deadline is short, and on a slow machine others miss it too
    struck = STRUCK.get(fault.step, 2)
    left = [DEVICES] * ROUNDS
    if fault.actor == "device-1" and fault.kind == "kill" and (fault.step, fault.point) in LOST:
        left[struck - 1] = DEVICES - 1
    ends = fault.actor == COORDINATOR and fault.kind in {"kill", "restart"}
    if ends and (fault.step, fault.point) in COSTLY:
        restarted = fault.kind == "restart"
        # A coordinator that is asked to stop finishes a round of which it has the sum.
        left[struck - 1] = DEVICES if restarted and fault.point == "before" else 0
    unheard = (fault.actor, fault.kind, fault.step, fault.point) == UNHEARD
    assert survivors(rig) == left or (unheard and survivors(rig) == [DEVICES, 0, DEVICES])


def test_no_fault(site, folder):
    rig = play(site, folder)
    check(rig)
    assert survivors(rig) == [DEVICES] * ROUNDS
    assert all(count == 1 for count in rig.charged.values())
    assert rig.coordinator.lives == 1
