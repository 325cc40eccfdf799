"""What a device says of itself while a round is worked out, when that fails, and behind a restart."""

import asyncio
from types import SimpleNamespace

import pytest
from mesh_nodes import in_loop, until
from round_worlds import charter

from fedmesh.errors import RoundError
from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.mesh.rounds.result import founding
from fedmesh.peer.blobs import BlobStore
from fedmesh.peer.round_record import RoundRecord, Shelf
from fedmesh.peer.sessions import MeshSessions
from fedmesh.peer.workshop import Facts
from fedmesh.wire import dumps

BEFORE = founding(charter(4))


class SlowWorkshop:
    """Works a round out when `gate` is open, and as `fails` says."""

    def __init__(self):
        self.gate, self.fails, self.affords = asyncio.Event(), "", True

    async def prepare(self, number, model, state):
        await self.gate.wait()
        if self.fails:
            raise RoundError(self.fails)
        return Facts(number, BEFORE.model, bytes(32), affords=self.affords)

    async def step(self, number, step, message, state):
        raise RoundError(f"the step {step!r} was refused here: budget")

    def close(self):
        pass


class AnyBlobs(BlobStore):
    def get(self, digest):
        return b"it is here"


def sessions(folder, workshop, *, told):
    kit = SimpleNamespace(read_task=lambda: None)
    return MeshSessions(
        charter(4), kit, None, blobs=AnyBlobs(folder), workshop=workshop, shelf=Shelf(folder), why_not=lambda: "",
        answered=lambda *_: None, changed=lambda: told.append("changed"), refused=told.append,
    )  # fmt: skip


def opened(one):
    return one.open(1, 0, tuple(charter(4).names), BEFORE)


@in_loop
async def test_no_attempt_is_given_up_for_a_round_that_is_still_worked_out(tmp_path):
    workshop, told = SlowWorkshop(), []
    one = sessions(tmp_path, workshop, told=told)
    assert opened(one) is None  # what it begins with is on its way
    one.begin(BEFORE)
    assert (opened(one), one.readiness(1, 0), told) == (None, Readiness.LATER, [])
    workshop.gate.set()
    await until(lambda: told)
    assert (one.readiness(1, 0), told) == (Readiness.READY, ["changed"])
    await one.aclose()


@in_loop
async def test_one_that_cannot_be_worked_out_here_is_given_up_at_once(tmp_path):
    workshop, told = SlowWorkshop(), []
    workshop.fails = "out of memory"
    workshop.gate.set()
    one = sessions(tmp_path, workshop, told=told)
    one.begin(BEFORE)
    await until(lambda: told)
    assert told == ["policy", "changed"]
    with pytest.raises(RoundError, match="could not be worked out here: out of memory"):
        opened(one)
    one.begin(BEFORE)  # there is something new to try with
    assert opened(one) is None
    await one.aclose()


@in_loop
async def test_behind_a_restart_it_says_at_once_that_its_attempt_is_past(tmp_path):
    workshop = SlowWorkshop()
    Shelf(tmp_path).keep(RoundRecord(1, 2, {2: "m0"}, b"header", b"sealed"))
    one = sessions(tmp_path, workshop, told=[])
    assert [one.readiness(1, attempt) for attempt in (0, 2, 3)] == [Readiness.NEXT, Readiness.NEXT, Readiness.LATER]
    assert one.readiness(2, 0) is Readiness.LATER
    one.begin(BEFORE)
    workshop.gate.set()
    await until(lambda: one.readiness(1, 3) is Readiness.READY)
    assert one.readiness(1, 2) is Readiness.NEXT
    signed = SetSignature(2, bytes(32), bytes(64))
    Shelf(tmp_path).keep(RoundRecord(1, 2, {2: "m0"}, b"header", b"sealed", signed))
    bound = sessions(tmp_path, workshop, told=[])
    assert [bound.readiness(1, attempt) for attempt in (2, 3)] == [Readiness.OUT, Readiness.OUT]
    await one.aclose()


@in_loop
async def test_who_could_not_do_its_part_is_out_of_that_attempt_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(MeshSessions, "_longest", 1 << 20)  # there is no task to work it out of
    workshop, told = SlowWorkshop(), []
    Shelf(tmp_path).keep(RoundRecord(1, 2, {2: "m0"}, b"header", b"sealed"))
    one = sessions(tmp_path, workshop, told=told)
    one.begin(BEFORE)
    workshop.gate.set()
    await until(lambda: told == ["changed"])
    assert one.answer(1, 2, "m0", dumps(["train", b"message"])) is None
    await until(lambda: len(told) == 3)
    assert told == ["changed", "changed", "policy"]
    assert [one.readiness(1, attempt) for attempt in (1, 2, 3)] == [Readiness.NEXT, Readiness.OUT, Readiness.READY]
    await one.aclose()
