"""What is handed on behind a certificate: the newest, once, also by who ended before it came to it."""

import asyncio

import pytest
from mesh_nodes import in_loop, until

from fedmesh.errors import RoundError
from fedmesh.events import Notice
from fedmesh.mesh.rounds import Result
from fedmesh.peer.delivering import Delivered, Delivering


def result(number, *, void=False):
    survivors = () if void else ("anna", "bert", "cleo", "dora")
    return Result(
        bytes(32), number, 0, bytes(32), survivors, b"" if void else bytes(32), bytes([number]) * 32, bytes(32)
    )


class Life:
    """One process: `delivered` are (round, last) as it began to deliver them, while `gate` is open."""

    def __init__(self, folder, *, fails=False, publishes=True):
        self.delivered, self.told, self.here, self.ended = [], [], {bytes([number]) * 32 for number in range(9)}, 0
        self.gate, self.fails = asyncio.Event(), fails
        self.gate.set()
        self.kept = Delivered(folder)
        self.delivering = Delivering(
            self.deliver if publishes else None, is_here=self.here.__contains__, kept=self.kept, over=self.over,
            events=self.told.append,
        )  # fmt: skip

    async def deliver(self, made, last):
        self.delivered.append((made.round, last))
        await self.gate.wait()
        if self.fails:
            raise RoundError("the disk is full")

    async def over(self):
        self.ended += 1


@in_loop
async def test_each_is_handed_on_once_and_the_run_is_over_then(tmp_path):
    life = Life(tmp_path)
    for number in (1, 2):
        life.delivering.certified(result(number), last=False)
        life.delivering.certified(result(number), last=False)
        await until(lambda number=number: life.kept.round == number)
    life.delivering.certified(result(3, void=True), last=True)
    await until(lambda: life.ended)
    assert life.delivered == [(1, False), (2, False)]


@in_loop
async def test_who_ended_before_it_hands_it_on_when_it_is_told_again(tmp_path):
    life = Life(tmp_path)
    life.gate.clear()
    life.delivering.certified(result(3), last=True)
    await until(lambda: life.delivered)
    await life.delivering.aclose()  # killed in the middle of it
    life = Life(tmp_path)
    assert life.kept.round == 0
    life.delivering.certified(result(3), last=True)
    await until(lambda: life.ended)
    assert life.delivered == [(3, True)]
    life = Life(tmp_path)
    life.delivering.certified(result(3), last=True)
    await until(lambda: life.ended)
    assert life.delivered == []


@in_loop
async def test_a_later_one_takes_the_place_of_what_waits(tmp_path):
    life = Life(tmp_path)
    life.gate.clear()
    life.delivering.certified(result(1), last=False)
    await until(lambda: life.delivered)
    for number in (2, 3):
        life.delivering.certified(result(number), last=False)
    life.gate.set()
    await until(lambda: life.kept.round == 3)
    assert life.delivered == [(1, False), (3, False)]
    life.here.discard(bytes([4]) * 32)  # a model that never comes keeps no later one away
    for number in (4, 5):
        life.delivering.certified(result(number), last=number == 5)
        await asyncio.sleep(0)
    await until(lambda: life.ended)
    assert life.delivered[2:] == [(5, True)]


@in_loop
async def test_what_fails_is_told_and_tried_by_the_next_life(tmp_path):
    life = Life(tmp_path, fails=True)
    life.delivering.certified(result(1), last=True)
    await until(lambda: life.ended)
    assert [event.text for event in life.told if isinstance(event, Notice)] == [
        "the model of round 1 was not delivered: the disk is full"
    ]
    life = Life(tmp_path)
    life.delivering.certified(result(1), last=True)
    await until(lambda: life.kept.round == 1)


@in_loop
async def test_who_hands_nothing_on_is_over_with_the_run(tmp_path):
    life = Life(tmp_path, publishes=False)
    life.delivering.certified(result(1), last=False)
    life.delivering.certified(result(2), last=True)
    await until(lambda: life.ended)
    assert (life.delivered, life.kept.round) == ([], 0)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff", b"1" * 33])
def test_what_cannot_be_read_was_not_delivered(tmp_path, data):
    (tmp_path / "delivered").write_bytes(data)
    assert Delivered(tmp_path).round == 0
