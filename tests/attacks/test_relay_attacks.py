"""A neighbour that relays is believed nothing: what it can do to those whose bytes it carries, and they to it."""

import asyncio
import contextlib
import random
import ssl

import pytest
from evil_relay import EvilRelay
from peer_mesh import running, until
from relaying import acquainted, spokes

from fedmesh.transport.peer_wire import Kind, circuit_of
from fedmesh.transport.tls import accepting

LARGE = random.Random(11).randbytes(400_000)
SECRET = b"nobody else is to read this: " * 40


@pytest.fixture
def mesh(tmp_path):
    return acquainted(tmp_path, "mallory", "anna", "cleo")


async def _ready(thing):
    return thing


async def trio(mesh, entered):
    """The relay, and two that have no other way to each other."""
    mallory = await entered(_ready(EvilRelay(mesh, "mallory")))
    anna, cleo = await spokes(mesh, entered, "mallory", "anna", "cleo")
    return mallory, anna, cleo


def test_it_cannot_read_what_it_carries(mesh):
    async def test(entered):
        mallory, anna, cleo = await trio(mesh, entered)
        await anna.send("cleo", SECRET)
        assert await anext(cleo.receive()) == ("anna", SECRET)
        await cleo.send("anna", SECRET)
        carried = {name: b"".join(piece for who, piece in mallory.seen if who == name) for name in ("anna", "cleo")}
        for said in carried.values():
            assert len(said) > len(SECRET)
            assert SECRET[:30] not in said
            assert b"fedmesh://" not in said, "TLS 1.3 shows no certificate to who carries it"

    running(test)


def _flipped(piece):
    return [bytes([*piece[:-3], piece[-3] ^ 1, *piece[-2:]])]


@pytest.mark.parametrize(
    "bent",
    [
        _flipped,
        lambda _piece: [],
        lambda piece: [piece, piece],
        lambda piece: [piece[:-1]],
        lambda piece: [piece, b"\x17\x03\x03\x00\x20" + bytes(32)],
        lambda piece: [piece[len(piece) // 2 :], piece[: len(piece) // 2]],
    ],
    ids=["flipped", "dropped", "repeated", "truncated", "inserted", "reordered"],
)
def test_what_it_alters_ends_the_connection_and_is_taken_by_nobody(mesh, bent):
    async def test(entered):
        mallory, anna, cleo = await trio(mesh, entered)
        await anna.connect("cleo", wait_s=120)
        await until(lambda: cleo.relayed)
        done = []

        def once(piece, up):
            if up and not done and len(piece) > 10_000:
                done.append(piece)
                return bent(piece)
            return [piece]

        mallory.bend = once
        first = anna.carrier.pool.links["cleo"]
        await anna.send("cleo", LARGE)
        assert await anext(cleo.receive()) == ("anna", LARGE)
        assert done
        assert first.is_over
        assert first.why != "idle"
        assert anna.counts["digest"] == cleo.counts["digest"] == cleo.counts["malformed"] == 0, "TLS has found it"

    running(test)


def test_a_circuit_that_it_cuts_off_takes_nothing_with_it(mesh):
    async def test(entered):
        mallory, anna, cleo = await trio(mesh, entered)
        await anna.connect("cleo", wait_s=120)
        pieces = []

        def cut(piece, up):
            pieces.append(piece)
            if up and len(pieces) == 8:
                mallory.end()
                return []
            return [piece]

        mallory.bend = cut
        await anna.send("cleo", LARGE)
        assert await anext(cleo.receive()) == ("anna", LARGE)
        assert anna.counts["connection_lost"] >= 1

    running(test)


def test_it_cannot_answer_for_whom_is_called(mesh):
    """It speaks TLS itself, with its own certificate; and so it is itself, whom anna did not call."""

    async def test(entered):
        mallory, anna, _cleo = await trio(mesh, entered)
        mallory.carries = False
        context = accepting(mallory.membership.tls_path, mallory.membership.root_path, required=True, times=False)
        calling = asyncio.create_task(anna.connect("cleo", wait_s=3_600))
        there = mallory.neighbours["anna"]
        await until(lambda: any(kind == Kind.DATA for kind, _ in there.heard))
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(coming, going, server_side=True)
        at, number = 0, next(body[:4] for kind, body in there.heard if kind == Kind.CALL)
        while anna.counts["refused_peer"] == 0:
            fresh, at = there.heard[at:], len(there.heard)
            coming.write(b"".join(body[4:] for kind, body in fresh if kind == Kind.DATA and body[:4] == number))
            with contextlib.suppress(ssl.SSLError):  # it wants more, or was told that it is not wanted
                tls.do_handshake()
            if said := going.read():
                there.say(Kind.DATA, number + said)
            await asyncio.sleep(0.01)
        assert "cleo" not in anna.links
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    running(test)


def test_what_it_recorded_is_of_no_use_later(mesh):
    async def test(entered):
        mallory, anna, cleo = await trio(mesh, entered)
        await anna.send("cleo", b"once")
        assert await anext(cleo.receive()) == ("anna", b"once")
        said = [piece for who, piece in mallory.seen if who == "anna"]
        anna.carrier.pool.links["cleo"].close("idle")
        await until(lambda: not anna.relayed and not cleo.relayed)
        there = mallory.neighbours["cleo"]
        number = there.begin()
        for piece in said:
            there.say(Kind.DATA, circuit_of(number, piece))
        await until(lambda: cleo.counts["handshake"] or cleo.counts["slow"])
        assert not cleo.relayed
        await anna.send("cleo", b"twice")
        assert await anext(cleo.receive()) == ("anna", b"twice")

    running(test)


def test_strangers_through_a_neighbour_are_bounded_as_those_from_one_address(mesh):
    async def test(entered):
        mallory, _anna, cleo = await trio(mesh, entered)
        there = mallory.neighbours["cleo"]
        for _ in range(40):
            there.begin()
        await until(lambda: sum(kind == Kind.END for kind, _ in there.heard) >= 32)
        assert cleo.counts["flood"] == 32, "8 are greeted"
        assert "mallory" in cleo.links
        assert len(cleo.carrier._pipes) <= 8

    running(test)


@pytest.mark.parametrize(
    "said",
    [
        [(Kind.CALLED, circuit_of(3))],  # a number of theirs
        [(Kind.CALLED, circuit_of(2)), (Kind.CALLED, circuit_of(2))],
        [(Kind.CALLED, b"\0\0")],
        [(Kind.CALL, circuit_of(2, b"../.."))],
        [(Kind.CALLED, circuit_of(2)), (Kind.CREDIT, circuit_of(2, (1).to_bytes(4)))],  # more than the window
        [(Kind.CALLED, circuit_of(2)), (Kind.CREDIT, circuit_of(2, (0).to_bytes(4)))],
        [(Kind.CALLED, circuit_of(2)), (Kind.CREDIT, circuit_of(2, b""))],
    ],
    ids=["number", "again", "short", "name", "overdrawn", "nothing", "empty"],
)
def test_who_breaks_the_rules_of_circuits_loses_its_connection(mesh, said):
    async def test(entered):
        mallory, _anna, cleo = await trio(mesh, entered)
        for kind, body in said:
            mallory.neighbours["cleo"].say(kind, body)
        await until(lambda: cleo.counts["malformed"] == 1)

    running(test)


def test_who_asks_again_and_again_is_told_so(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub"))
        anna, cleo = await spokes(mesh, entered, "hub", "anna", "cleo", idle_s=600)
        asked = 0
        while not hub.counts["relay_often"]:
            await anna.carrier.attempts._relayed("nobody", "hub")
            asked += 1
            assert asked < 10_000
        assert hub.counts["relay_roster"] >= 32
        await cleo.connect("anna", wait_s=120)

    running(test)


def test_the_evil_relay_is_a_good_one_until_it_is_told_otherwise(mesh):
    async def test(entered):
        _mallory, anna, cleo = await trio(mesh, entered)
        await asyncio.gather(anna.send("cleo", LARGE), cleo.send("anna", LARGE))
        assert anna.counts["connection_lost"] == cleo.counts["connection_lost"] == 0

    running(test)
