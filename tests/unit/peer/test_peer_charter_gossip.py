"""Charters from neighbour to neighbour, without sockets: who asks whom, and what happens to silence and lies."""

import math

import pytest
from round_worlds import charter

from fedmesh.errors import ChainError
from fedmesh.mesh.rounds.charter import read_charter
from fedmesh.peer.charter_gossip import MAX_CHARTERS, CharterGossip


class Mesh:
    """Gossips that hear each other at once; `known` to all but those that `refuse`."""

    def __init__(self, *names):
        self.now, self.lost, self.room = 0.0, set(), dict.fromkeys(names, True)
        self.sent = []
        self.believes, self.vouchers = dict.fromkeys(names, True), 0
        self.gossips = {
            name: CharterGossip(
                opened=lambda raw, vouchers, name=name: self.opened(name, raw, vouchers),
                accepted=lambda _, name=name: self.room[name],
            )
            for name in names
        }

    def opened(self, name, raw, vouchers):
        if not self.believes[name] or len(vouchers) < self.vouchers:
            raise ChainError("no", code="charter")
        return read_charter(raw)

    def carry(self, sender, outgoing):
        for item in outgoing:
            self.sent.append((sender, item.to, item.data[1]))
            if (sender, item.to) not in self.lost:
                self.carry(item.to, self.gossips[item.to].received(sender, item.data, self.now))

    def meet(self, one, other):
        hello = [(one, self.gossips[one].connected(other)), (other, self.gossips[other].connected(one))]
        for name, outgoing in hello:
            self.carry(name, outgoing)

    def tick(self, seconds):
        self.now += seconds
        for name, gossip in self.gossips.items():
            self.carry(name, gossip.tick(self.now))


FIRST, SECOND = charter(4), charter(5)


def read(raw, _vouchers):
    return read_charter(raw)


def test_the_messages_are_these_bytes():
    gossip = CharterGossip(opened=read, accepted=lambda _: True)
    assert gossip.connected("bert") == []
    assert [item.data for item in gossip.put(FIRST)] == [b"\x01\x00" + FIRST.hash]
    given = gossip.received("bert", b"\x01\x01" + FIRST.hash, 0.0)
    assert [item.data for item in given] == [b"\x01\x02" + FIRST.raw]
    assert [item.data for item in gossip.received("bert", b"\x01\x00" + SECOND.hash, 0.0)] == [
        b"\x01\x01" + SECOND.hash
    ]


def test_a_charter_goes_from_neighbour_to_neighbour_and_each_is_asked_for_once():
    mesh = Mesh("anna", "bert", "cleo")
    mesh.meet("anna", "bert")
    mesh.meet("bert", "cleo")
    mesh.carry("anna", mesh.gossips["anna"].put(FIRST))
    assert mesh.gossips["cleo"].known == {FIRST.hash: FIRST.raw}
    assert [kind for _, _, kind in mesh.sent].count(2) == 2
    mesh.carry("cleo", mesh.gossips["cleo"].put(SECOND))
    assert set(mesh.gossips["anna"].known) == {FIRST.hash, SECOND.hash}


def test_a_newcomer_hears_of_what_is_under_way():
    mesh = Mesh("anna", "bert")
    mesh.gossips["anna"].put(FIRST)
    mesh.meet("bert", "anna")
    assert FIRST.hash in mesh.gossips["bert"].known


def test_who_is_silent_is_not_waited_for():
    mesh = Mesh("anna", "bert", "cleo")
    mesh.gossips["anna"].put(FIRST)
    mesh.gossips["bert"].put(FIRST)
    mesh.lost = {("cleo", "anna")}
    mesh.meet("anna", "cleo")
    mesh.meet("bert", "cleo")
    assert FIRST.hash not in mesh.gossips["cleo"].known
    mesh.tick(16)
    assert FIRST.hash in mesh.gossips["cleo"].known
    assert mesh.gossips["cleo"].counts["timeout"] == 1


def test_a_question_that_was_lost_is_asked_again_of_the_only_one():
    mesh = Mesh("anna", "bert")
    mesh.gossips["anna"].put(FIRST)
    mesh.lost = {("bert", "anna")}
    mesh.meet("anna", "bert")
    mesh.lost = set()
    mesh.tick(16)
    mesh.tick(31)
    assert FIRST.hash in mesh.gossips["bert"].known


def test_who_gave_what_is_not_believed_is_not_asked_again_until_the_roster_is_another():
    mesh = Mesh("anna", "bert")
    mesh.believes["bert"] = False
    mesh.gossips["anna"].put(FIRST)
    mesh.meet("anna", "bert")
    mesh.tick(1_000)
    assert mesh.gossips["bert"].counts["charter"] == 1
    mesh.believes["bert"] = True
    mesh.carry("bert", mesh.gossips["bert"].roster_changed(mesh.now))
    assert FIRST.hash in mesh.gossips["bert"].known


def test_each_neighbour_that_has_it_speaks_for_it_and_it_is_looked_at_anew():
    mesh = Mesh("anna", "bert", "cleo", "dora")
    for name in ("anna", "bert", "cleo"):
        mesh.gossips[name].put(FIRST)
    mesh.vouchers = 3
    mesh.meet("dora", "anna")
    mesh.meet("dora", "bert")
    mesh.tick(1_000)
    assert mesh.gossips["dora"].counts == {"charter": 2}
    mesh.meet("dora", "cleo")
    assert FIRST.hash in mesh.gossips["dora"].known
    mesh = Mesh("anna", "bert", "dora")
    mesh.gossips["anna"].put(FIRST)
    mesh.vouchers = 2
    mesh.meet("dora", "bert")
    mesh.meet("dora", "anna")
    assert FIRST.hash not in mesh.gossips["dora"].known
    mesh.carry("bert", mesh.gossips["bert"].put(FIRST))  # it took it over later
    assert FIRST.hash in mesh.gossips["dora"].known


def test_one_without_room_does_not_ask_for_ever():
    mesh = Mesh("anna", "bert")
    mesh.room["bert"] = False
    mesh.gossips["anna"].put(FIRST)
    mesh.meet("anna", "bert")
    mesh.tick(1_000)
    assert mesh.gossips["bert"].counts == {"full": 1}
    assert [kind for _, _, kind in mesh.sent].count(2) == 1


def test_what_nobody_asked_for_is_not_taken():
    mesh = Mesh("anna", "bert")
    mesh.meet("anna", "bert")
    bert = mesh.gossips["bert"]
    bert.received("anna", b"\x01\x02" + FIRST.raw, 0.0)
    bert.received("anna", b"\x01\x00" + SECOND.hash, 0.0)
    bert.received("anna", b"\x01\x02" + FIRST.raw, 0.0)  # another than it was asked for
    bert.received("stranger", b"\x01\x02" + FIRST.raw, 0.0)
    assert bert.counts == {"unasked": 2, "stranger": 1}
    assert not bert.known


def test_who_asks_without_end_is_answered_now_and_then():
    gossip = CharterGossip(opened=read, accepted=lambda _: True)
    gossip.put(FIRST)
    gossip.connected("bert")
    given = sum(len(gossip.received("bert", b"\x01\x01" + FIRST.hash, number / 100)) for number in range(1_000))
    assert given <= 2 * MAX_CHARTERS + 11
    assert gossip.counts["busy"] == 1_000 - given


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x00", b"\x01\x00x", b"\x01\x01x", b"\x01\x03", b"\x01\x02x"])
def test_what_is_no_message_is_counted(data):
    gossip = CharterGossip(opened=read, accepted=lambda _: True)
    gossip.connected("bert")
    assert gossip.received("bert", data, 0.0) == []
    assert gossip.counts == {"malformed": 1}


def test_a_liar_costs_a_bounded_memory():
    gossip = CharterGossip(opened=read, accepted=lambda _: True)
    gossip.connected("bert")
    now = 0.0
    for number in range(5_000):
        hashes = b"".join((number * 64 + each).to_bytes(32, "big") for each in range(MAX_CHARTERS))
        gossip.received("bert", b"\x01\x00" + hashes, now)
        now += 20.0
        gossip.tick(now)
    assert len(gossip._refused) <= 4 * MAX_CHARTERS
    assert len(gossip._asked) <= 4
    gossip.disconnected("bert", now)
    assert (gossip._refused, gossip._asked, gossip._given, gossip._theirs) == ({}, {}, {}, {})
    assert all(until < math.inf for until in gossip._refused.values())
