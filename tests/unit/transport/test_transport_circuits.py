"""Circuits and the relay by themselves, over connections that only remember what is said on them."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from fedmesh.errors import DecodeError
from fedmesh.transport.peer_circuits import Circuits
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_options import PeerOptions
from fedmesh.transport.peer_relay import Relay
from fedmesh.transport.peer_wire import (
    PIECE_BYTES,
    WINDOW_BYTES,
    Cutter,
    Kind,
    circuit_in,
    circuit_of,
    head_of,
)

PIECE = bytes(range(256)) * (PIECE_BYTES // 256)


class Link:
    """A connection with `name`; `said` is what was written."""

    def __init__(self, name, *, dialled=None, via=None):
        self.name, self.dialled, self.via, self.unwritten, self.said = name, dialled, via, 0, []

    def send(self, kind, body):
        self.said.append((kind, *circuit_in(body)))


class User:
    def __init__(self):
        self.got, self.codes, self.rooms = [], [], 0

    def arrived(self, data):
        self.got.append(data)

    def may_send(self):
        self.rooms += 1

    def ended(self, code):
        self.codes.append(code)


def ends(*, dialled=True):
    """Circuits of one end, its link, and what was asked of it."""
    asked = []

    def take(circuit, name=None):
        circuit.user = User()
        asked.append((circuit, name))

    return Circuits(asked=take, called=take), Link("b", dialled="b" if dialled else None), asked


def test_each_end_of_a_connection_has_numbers_of_its_own():
    for dialled, own, theirs in ((True, [1, 3], 2), (False, [2, 4], 1)):
        circuits, link, asked = ends(dialled=dialled)
        assert [circuits.begin(link, Kind.CALL, b"c").number for _ in range(2)] == own
        circuits.received(link, Kind.CALLED, circuit_of(theirs))
        for wrong in (theirs, own[0] + 4, own[0]):
            with pytest.raises(DecodeError, match="was to come"):
                circuits.received(link, Kind.CALLED, circuit_of(wrong))
        circuits.received(link, Kind.CALL, circuit_of(theirs + 2, b"c"))
        assert [(circuit.number, name) for circuit, name in asked] == [(theirs, None), (theirs + 2, "c")]


def test_more_than_there_is_room_for_is_a_breach_and_room_is_made_by_taking():
    circuits, link, asked = ends()
    circuits.received(link, Kind.CALLED, circuit_of(2))
    ((circuit, _),) = asked
    for _ in range(WINDOW_BYTES // PIECE_BYTES):
        circuits.received(link, Kind.DATA, circuit_of(2, PIECE))
    with pytest.raises(DecodeError, match="than the 262144 bytes"):
        circuits.received(link, Kind.DATA, circuit_of(2, b"x"))
    circuits, link, asked = ends()
    circuits.received(link, Kind.CALLED, circuit_of(2))
    ((circuit, _),) = asked
    for _ in range(10 * WINDOW_BYTES // PIECE_BYTES):
        circuits.received(link, Kind.DATA, circuit_of(2, PIECE))
        circuit.taken(PIECE_BYTES)
    given = [int.from_bytes(rest) for kind, _, rest in link.said if kind == Kind.CREDIT]
    assert sum(given) == 10 * WINDOW_BYTES
    assert set(given) == {WINDOW_BYTES // 4}, "not one for each piece"


def test_what_may_be_sent_is_what_was_taken():
    circuits, link, _ = ends()
    circuit = circuits.begin(link, Kind.CALL, b"c")
    user = circuit.user = User()
    circuit.send(PIECE)
    assert circuit.credit == WINDOW_BYTES - PIECE_BYTES
    circuits.received(link, Kind.CREDIT, circuit_of(1, PIECE_BYTES.to_bytes(4)))
    assert circuit.credit == WINDOW_BYTES
    assert user.rooms == 1
    with pytest.raises(DecodeError, match="than was sent"):
        circuits.received(link, Kind.CREDIT, circuit_of(1, (1).to_bytes(4)))


def test_the_end_of_a_circuit():
    circuits, link, _ = ends()
    first, second, third = [circuits.begin(link, Kind.CALL, b"c") for _ in range(3)]
    users = [User(), User(), User()]
    first.user, second.user, third.user = users
    first.end("closed")
    first.end("closed")
    circuits.received(link, Kind.END, circuit_of(3, b"full"))
    circuits.received(link, Kind.DATA, circuit_of(3, b"late"))  # crossed the end
    circuits.over(link)
    assert [user.codes for user in users] == [[], ["full"], ["lost"]]
    assert [said for said in link.said if said[0] == Kind.END] == [(Kind.END, 1, b"closed")]
    assert first.is_over
    assert second.is_over
    assert third.is_over


def test_no_circuit_in_one_that_is_relayed():
    async def main():
        for via, wanted in ((None, ["taken"]), ("hub", ["malformed"])):
            found = []
            owner = SimpleNamespace(received=lambda *_, f=found: f.append("taken"), count=found.append, ended=None)
            link = PeerLink(owner, dialled="b", hello_s=1.0, via=via)
            link._cutter = Cutter()
            link._cutter.greeted = True
            body = circuit_of(2, b"c")
            link.data_received(head_of(Kind.CALL, len(body)) + body)
            assert found == wanted

    asyncio.run(main())


class World:
    """A relay, its two neighbours and how long its own frames need."""

    def __init__(self, **options):
        rows = {name: SimpleNamespace(serial=number) for number, name in enumerate(("anna", "cleo", "dora"))}
        self.revoked = set()
        membership = SimpleNamespace(
            roster=SimpleNamespace(enrolled=rows), revocations=SimpleNamespace(revoked=self.revoked.__contains__)
        )
        self.links = {name: Link(name) for name in rows}
        self.counts, self.own_wait_s, self.took = [], 0.0, 0
        self.circuits = Circuits(asked=self._asked, called=None)
        self.relay = Relay(
            membership,
            PeerOptions(**{"relay_bytes_per_s": 1e12, **options}),
            self.circuits,
            self.links,
            own_wait_s=lambda: self.own_wait_s,
            took=self._took,
            count=self.counts.append,
        )

    def _asked(self, circuit, name):
        self.relay.asked(circuit, name)

    def _took(self, size):
        self.took += size

    def say(self, name, kind, number, rest=b""):
        self.circuits.received(self.links[name], kind, circuit_of(number, rest))

    def carried(self, name):
        return b"".join(rest for kind, _, rest in self.links[name].said if kind == Kind.DATA)

    def ends(self, name):
        return [rest.decode() for kind, _, rest in self.links[name].said if kind == Kind.END]


def playing(test, **options):
    async def main():
        async with asyncio.timeout(20):
            await test(World(**options))

    asyncio.run(main())


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_what_is_carried_is_passed_on_as_it_came_both_ways():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        assert world.links["cleo"].said == [(Kind.CALLED, 2, b"")]
        up, down = os.urandom(100_000), os.urandom(90_000)
        for at in range(0, len(up), PIECE_BYTES):
            world.say("anna", Kind.DATA, 1, up[at : at + PIECE_BYTES])
            world.say("cleo", Kind.DATA, 2, down[at : at + PIECE_BYTES])
        await until(lambda: world.relay.carried_bytes == 190_000)
        assert world.carried("cleo") == up
        assert world.carried("anna") == down
        assert world.took == 190_000

    playing(test)


def test_our_own_frames_go_first():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.links["cleo"].unwritten = 100_000
        world.say("anna", Kind.DATA, 1, PIECE)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.took == 0, "much of ours waits there"
        world.links["cleo"].unwritten, world.own_wait_s = 0, 0.001
        await asyncio.sleep(0.05)
        assert world.took == 0, "our own limit is used up"
        world.own_wait_s = 0.0
        await until(lambda: world.took == PIECE_BYTES)

    playing(test)


def test_one_who_takes_nothing_holds_up_nobody_else_and_is_given_a_window():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("dora", Kind.CALL, 1, b"cleo")
        window = WINDOW_BYTES // PIECE_BYTES
        for _ in range(window):
            world.say("anna", Kind.DATA, 1, PIECE)
        await until(lambda: world.took == WINDOW_BYTES)
        for _ in range(window):  # cleo has taken nothing: this stays here
            world.say("anna", Kind.DATA, 1, PIECE)
        with pytest.raises(DecodeError, match="there is room for"):
            world.say("anna", Kind.DATA, 1, b"x")
        world.say("dora", Kind.DATA, 1, PIECE)
        await until(lambda: world.took == WINDOW_BYTES + PIECE_BYTES)
        assert [number for kind, number, _ in world.links["cleo"].said if kind == Kind.DATA][-1] == 4

    playing(test)


def test_circuits_take_turns():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("dora", Kind.CALL, 1, b"cleo")
        for name in ("anna", "dora"):
            for _ in range(4):
                world.say(name, Kind.DATA, 1, PIECE)
        await until(lambda: world.took == 8 * PIECE_BYTES)
        order = [number for kind, number, _ in world.links["cleo"].said if kind == Kind.DATA]
        assert order == [2, 4] * 4

    playing(test)


def test_last_words_are_passed_on_before_the_end():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("anna", Kind.DATA, 1, b"goodbye")
        world.say("anna", Kind.END, 1, b"closed")
        await until(lambda: not world.relay.between)
        assert [said[0] for said in world.links["cleo"].said] == [Kind.CALLED, Kind.DATA, Kind.END]
        assert world.ends("anna") == []

    playing(test)


def test_who_is_no_longer_a_member_or_whose_link_is_gone():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("dora", Kind.CALL, 1, b"cleo")
        world.revoked.add(0)
        world.relay.tick()
        assert world.relay.between == [("dora", "cleo")]
        assert world.ends("anna") == ["roster"]
        assert world.ends("cleo") == ["roster"]
        world.circuits.over(world.links.pop("cleo"))
        await until(lambda: not world.relay.between)
        assert world.ends("dora") == ["lost"]

    playing(test)


def test_a_circuit_on_which_nothing_was_carried_for_long_is_ended():
    async def test(world):
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("dora", Kind.CALL, 1, b"cleo")
        for carried in world.relay._carried:
            carried.used_at -= 121
        world.say("dora", Kind.DATA, 1, PIECE)
        await until(lambda: world.took)
        world.relay.tick()
        assert world.relay.between == [("dora", "cleo")]
        assert world.ends("anna") == world.ends("cleo") == ["idle"]

    playing(test, idle_s=120)


@pytest.mark.parametrize(
    ("options", "name", "code"),
    [
        ({}, "cleo", None),
        ({"relay": False}, "cleo", "off"),
        ({"circuits": 1}, "dora", "full"),
        ({"circuits_each": 1}, "dora", "full"),
        ({}, "nobody", "roster"),
        ({}, "anna", "unlinked"),
        ({}, "bert", "unlinked"),
        ({}, "eva", "unlinked"),
    ],
)
def test_who_is_not_relayed(options, name, code):
    async def test(world):
        enrolled = world.relay._membership.roster.enrolled
        enrolled["bert"] = enrolled["eva"] = SimpleNamespace(serial=9)
        world.links["eva"] = Link("eva", via="dora")
        world.say("anna", Kind.CALL, 1, b"cleo")
        world.say("anna", Kind.CALL, 3, name.encode())
        wanted = [] if code is None else [code] if options.get("relay", True) else [code, code]
        assert world.ends("anna") == wanted
        assert world.counts.count("relayed") == 2 - max(1, len(wanted)) if wanted else True

    playing(test, **options)
