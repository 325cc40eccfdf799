"""Signed lists from neighbour to neighbour: who believes what, whatever neighbours say."""

from collections import deque

import pytest
from meshes import NOW, Mesh

from fedmesh.transport.list_gossip import ListGossip
from fedmesh.wire import dumps


class Party:
    def __init__(self, world, name):
        self.membership = world.mesh.enrol(name)
        self.accepted = []
        self.gossip = ListGossip(self.membership, clock=lambda: NOW, accepted=lambda *what: self.accepted.append(what))

    @property
    def revoked(self):
        return set(self.membership.revocations.serials.values())


class World:
    """Parties that hear each other at once; the tape says what was sent."""

    def __init__(self, folder, *names):
        self.mesh = Mesh(folder)
        self.parties = {name: Party(self, name) for name in names}
        self.queue, self.tape, self.now = deque(), [], 1.0
        roster, revocations = self.mesh.issuer.lists(NOW)
        for party in self.parties.values():
            party.membership.accept(NOW, roster=roster, revocations=revocations)

    def link(self, one, other):
        for name, peer in ((one, other), (other, one)):
            self.carry(name, self.parties[name].gossip.connected(peer))

    def carry(self, name, outgoing):
        self.queue.extend((name, item.to, item.data) for item in outgoing)

    def run(self):
        while self.queue:
            name, to, data = self.queue.popleft()
            self.tape.append((name, to, data))
            if to in self.parties:
                self.carry(to, self.parties[to].gossip.received(name, data, self.now))

    def revoke(self, device, *, known_to):
        self.mesh.issuer.revoke(device, NOW)
        roster, revocations = self.mesh.issuer.lists(NOW)
        party = self.parties[known_to]
        assert party.membership.accept(NOW, roster=roster, revocations=revocations)
        self.carry(known_to, party.gossip.changed(self.now))


@pytest.fixture
def line(tmp_path):
    """anna - bert - cleo, and dora, who has no link."""
    world = World(tmp_path, "anna", "bert", "cleo", "dora")
    world.link("anna", "bert")
    world.link("bert", "cleo")
    world.run()
    return world


def have(rank, digest=b"x" * 32):
    return dumps([1, 0, [*rank, digest], [0, 0, b"y" * 32]])


def test_nothing_is_asked_for_where_all_have_the_same(line):
    assert len(line.tape) == 4
    assert not any(party.accepted for party in line.parties.values())


def test_a_new_list_reaches_who_has_no_link_to_who_had_it_first(line):
    line.revoke("dora", known_to="anna")
    line.run()
    assert [line.parties[name].revoked for name in ("anna", "bert", "cleo", "dora")] == [{"dora"}] * 3 + [set()]
    assert [kind for kind, _ in line.parties["cleo"].accepted] == ["revocations", "roster"]
    line.link("cleo", "dora")
    line.run()
    assert line.parties["dora"].revoked == {"dora"}


def test_a_list_that_was_not_asked_for_is_not_read(line):
    line.mesh.issuer.revoke("dora", NOW)
    _, revocations = line.mesh.issuer.lists(NOW)
    anna = line.parties["anna"]
    assert anna.gossip.received("bert", dumps([1, 2, "revocations", revocations]), 1.0) == []
    assert anna.gossip.counts == {"unasked": 1}
    assert not anna.revoked


def test_who_answers_with_no_list_is_not_heard_for_a_while_and_another_is_asked(line):
    anna = line.parties["anna"]
    anna.gossip.connected("cleo")
    (asked,) = anna.gossip.received("bert", have((9, 9)), 1.0)
    assert asked.to == "bert"
    assert anna.gossip.received("cleo", have((8, 8)), 1.0) == []  # one at a time
    (asked,) = anna.gossip.received("bert", dumps([1, 2, "revocations", b"rubbish"]), 2.0)
    assert asked.to == "cleo"
    assert anna.gossip.received("bert", have((9, 9), b"z" * 32), 3.0) == []
    assert anna.gossip.counts == {"malformed": 1, "banned": 1}
    assert anna.gossip.received("bert", have((9, 9), b"z" * 32), 700.0) == []
    anna.gossip.changed(700.0)
    (asked,) = anna.gossip.tick(700.0)  # cleo never answered
    assert asked.to == "bert"
    assert anna.gossip.counts["timeout"] == 1


def test_a_list_of_another_authority_is_refused(line, tmp_path):
    other = World(tmp_path / "other", "eve")
    other.mesh.issuer.revoke("eve", NOW)
    _, forged = other.mesh.issuer.lists(NOW)
    anna = line.parties["anna"]
    anna.gossip.received("bert", have((9, 9)), 1.0)
    anna.gossip.received("bert", dumps([1, 2, "revocations", forged]), 1.0)
    assert not anna.revoked
    assert anna.gossip.counts.total() == 1
    assert anna.gossip.received("bert", have((9, 9)), 2.0) == []


def test_an_older_list_changes_nothing(line):
    _, old = line.mesh.issuer.lists(NOW)
    line.revoke("dora", known_to="anna")
    line.run()
    anna = line.parties["anna"]
    anna.gossip.received("bert", have((9, 9)), 1.0)
    anna.gossip.received("bert", dumps([1, 2, "revocations", old]), 1.0)
    assert anna.revoked == {"dora"}
    assert anna.gossip.counts == {"rollback": 1}


def test_who_asks_again_and_again_is_given_one_list(line):
    anna = line.parties["anna"]
    asking = dumps([1, 1, "roster"])
    given = [anna.gossip.received("bert", asking, at) for at in (1.0, 1.1, 5.9, 6.1)]
    assert [len(out) for out in given] == [1, 0, 0, 1]
    assert anna.gossip.counts == {"busy": 2}


def test_who_is_gone_is_not_waited_for(line):
    anna = line.parties["anna"]
    anna.gossip.connected("cleo")
    anna.gossip.received("bert", have((9, 9)), 1.0)
    anna.gossip.received("cleo", have((8, 8)), 1.0)
    (asked,) = anna.gossip.disconnected("bert", 1.5)
    assert asked.to == "cleo"


def test_what_was_lost_is_told_again(line):
    anna = line.parties["anna"]
    anna.gossip.changed(0.0)
    assert anna.gossip.tick(299.0) == []
    assert [item.to for item in anna.gossip.tick(300.0)] == ["bert"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        dumps([2, 1, "roster"]),
        dumps([1, 1, "else"]),
        dumps([1, 2, "roster", "text"]),
        dumps([1, 0, [1, 1, b"x" * 32]]),
        dumps([1, 0, [1, 1, b"x" * 31], [1, 1, b"x" * 32]]),
        dumps([1, 0, [-1, 1, b"x" * 32], [1, 1, b"x" * 32]]),
        dumps([1, 0, [True, 1, b"x" * 32], [1, 1, b"x" * 32]]),
        dumps([1, 0, [1, 1 << 62, b"x" * 32], [1, 1, b"x" * 32]]),
    ],
)
def test_malformed_messages_are_counted(line, data):
    anna = line.parties["anna"]
    assert anna.gossip.received("bert", data, 1.0) == []
    assert anna.gossip.counts == {"malformed": 1}


def test_who_has_no_link_is_not_heard(line):
    anna = line.parties["anna"]
    assert anna.gossip.received("dora", have((9, 9)), 1.0) == []
    assert anna.gossip.counts == {"stranger": 1}
