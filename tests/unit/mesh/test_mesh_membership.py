"""One member, spoken to by hand."""

import math
import random

import pytest
from membership_worlds import MESH, Kept, public, signer

from fedmesh.errors import ConfigError
from fedmesh.mesh.membership import Settings, State, Swim
from fedmesh.mesh.membership.broadcasts import Broadcasts
from fedmesh.mesh.membership.messages import Ack, Gossip, Nack, Ping, PingReq, States, Summary, decode, encode

NAMES = ["anna", "bert", "cleo", "dora", "emil"]


class One:
    """The member anna, who knows the others."""

    def __init__(self, known=NAMES[1:], **settings):
        self.roster = {name: public(name) for name in NAMES}
        self.kept, self.now, self.heard = Kept(), 0.0, {}
        self.swim = Swim(
            signer("anna"),
            key_of=self.roster.get,
            incarnations=self.kept,
            rng=random.Random(5),
            settings=Settings(**settings),
            heard=lambda name: self.heard.get(name, -math.inf),
        )
        self.first = self.swim.start(0.0, seeds={"bert": ["bert:1"]}, addresses=["anna:1"])
        self.tell(*(signer(name).alive(1, [f"{name}:1"], "") for name in known))

    def tell(self, *statements, by="bert"):
        return self.hear(Gossip(tuple(statement.raw for statement in statements)), by=by)

    def hear(self, message, *, by="bert"):
        return [(out.to, decode(out.data)) for out in self.swim.received(by, encode(message), self.now)]

    def pass_time(self, seconds, answer=lambda _to, _message: []):
        """What it sends until then; `answer` gives (sender, message) that come back at once."""
        sent, ends = [], self.now + seconds
        while self.swim.due <= ends:
            self.now = max(self.now, self.swim.due)
            for out in self.swim.tick(self.now):
                sent.append((out.to, decode(out.data)))
                for by, message in answer(*sent[-1]):
                    sent += self.hear(message, by=by)
        self.now = ends
        return sent

    def state(self, name):
        return {member.name: member.state for member in self.swim.members}.get(name)


def all_answer(to, message):
    return [(to, Ack(message.sequence))] if isinstance(message, Ping) else []


def only_others_answer(dead):
    def answer(to, message):
        if isinstance(message, PingReq):
            return [(to, Nack(message.sequence))]
        return all_answer(to, message) if to != dead else []

    return answer


def test_it_asks_its_seeds_first_with_its_own_word():
    one = One()
    assert [(out.to, out.addresses) for out in one.first] == [("bert", ("bert:1",))]
    summary = decode(one.first[0].data)
    assert isinstance(summary, Summary)
    assert summary.rows == (("anna", 1, 0),)
    assert summary.statements == (signer("anna").alive(1, ["anna:1"], "").raw,)


def test_a_ping_is_answered_and_everybody_is_probed():
    one = One()
    assert ("cleo", Ack(77)) in [(to, Ack(message.sequence)) for to, message in one.hear(Ping(77), by="cleo")]
    sent = one.pass_time(9, all_answer)
    assert {to for to, message in sent if isinstance(message, Ping)} == set(NAMES[1:])
    assert {type(message) for _, message in sent if isinstance(message, Ping | PingReq)} == {Ping}
    assert one.swim.health == 0


def test_who_does_not_answer_is_asked_through_others_then_suspected_then_dead():
    one = One()
    sent = one.pass_time(6, only_others_answer("cleo"))
    asked = [(to, message) for to, message in sent if isinstance(message, PingReq)]
    assert {message.target for _, message in asked} == {"cleo"}
    assert {to for to, _ in asked} <= {"bert", "dora", "emil"}
    assert one.state("cleo") is State.SUSPECT
    assert one.swim.health == 0  # the helpers were heard: the fault is not here
    one.pass_time(40, only_others_answer("cleo"))
    assert one.state("cleo") is State.DEAD
    assert {one.state(name) for name in NAMES if name != "cleo"} == {State.ALIVE}


def test_an_ack_through_a_helper_is_enough():
    def answer(to, message):
        if isinstance(message, PingReq):
            return [(to, Ack(message.sequence))]
        return all_answer(to, message) if to != "cleo" else []

    one = One()
    one.pass_time(30, answer)
    assert one.state("cleo") is State.ALIVE


def test_an_ack_of_somebody_who_was_not_asked_is_none():
    def answer(to, message):
        if isinstance(message, Ping) and to == "cleo":
            return [("emil", Ack(message.sequence))]
        return only_others_answer("cleo")(to, message)

    one = One()
    one.pass_time(6, answer)
    assert one.state("cleo") is State.SUSPECT


def test_who_hears_nobody_doubts_itself_and_slows_down():
    one, busy = One(), One()
    probes = [to for to, message in busy.pass_time(20, all_answer) if isinstance(message, Ping)]
    slow = [to for to, message in one.pass_time(20) if isinstance(message, Ping)]
    assert one.swim.health == 8
    assert len(slow) < len(probes) / 2
    refuting = lambda to, message: [(to, Ack(message.sequence, (signer(to).alive(2, [], "").raw,)))]  # noqa: E731
    one.pass_time(60, lambda to, message: refuting(to, message) if isinstance(message, Ping) else [])
    assert one.swim.health == 0


def test_a_helper_probes_and_brings_the_answer_or_says_that_there_is_none():
    one = One()
    [(to, ping)] = [out for out in one.hear(PingReq(5, "dora"), by="bert") if isinstance(out[1], Ping)]
    assert to == "dora"
    assert ("bert", Nack(5)) in one.pass_time(0.35)
    assert ("bert", Ack(5)) not in one.hear(Ack(ping.sequence), by="cleo")  # dora was asked, not cleo
    back = one.hear(Ack(ping.sequence), by="dora")
    assert [(to, message.sequence) for to, message in back if isinstance(message, Ack)] == [("bert", 5)]


def test_a_helper_helps_one_peer_so_often():
    one = One()
    pings = [out for sequence in (1, 1, 2, 3) for out in one.hear(PingReq(sequence, "dora")) if out[0] == "dora"]
    assert len(pings) == 1
    assert one.swim.counts["busy"] == 2  # the second one was doubled by the network
    one.now += 1
    assert [to for to, _ in one.hear(PingReq(4, "dora"))] == ["dora"]


def test_a_suspect_is_told_and_refutes():
    one = One()
    accusation = signer("bert").accuse(State.SUSPECT, "cleo", 1)
    one.tell(accusation)
    assert one.state("cleo") is State.SUSPECT
    [(_, ack)] = one.hear(Ping(1), by="cleo")
    assert accusation.raw in ack.statements  # the buddy system
    one.tell(signer("cleo").alive(2, [], ""), by="cleo")
    assert one.state("cleo") is State.ALIVE
    one.tell(accusation)
    assert one.state("cleo") is State.ALIVE


def test_an_accused_member_refutes_with_a_higher_incarnation():
    one = One()
    one.tell(signer("bert").accuse(State.DEAD, "anna", 1))
    assert one.swim.incarnation == 2
    assert one.swim.health == 1
    one.tell(signer("cleo").accuse(State.DEAD, "anna", 1))
    assert one.swim.incarnation == 2  # that life is over
    one.tell(signer("cleo").accuse(State.DEAD, "anna", 9))
    assert one.swim.incarnation == 2  # it has never had that one


def test_a_member_that_lost_its_file_goes_on_from_what_others_remember():
    one = One()
    one.tell(signer("anna").alive(70, ["old:1"], ""))
    assert one.swim.incarnation == 71
    assert one.kept.last == 71


def test_a_full_disk_is_counted_and_nothing_unkept_is_said():
    one = One()
    one.kept.beyond = lambda _floor: (_ for _ in ()).throw(ConfigError("the disk is full"))
    one.tell(signer("bert").accuse(State.SUSPECT, "anna", 1))
    assert (one.swim.incarnation, one.swim.counts["storage"]) == (1, 1)
    with pytest.raises(ConfigError, match="full"):
        one.swim.update(one.now, addresses=[], model="x")


def test_more_accusers_make_a_suspicion_shorter():
    alone, shared = One(), One()
    for one in (alone, shared):
        one.tell(signer("bert").accuse(State.SUSPECT, "cleo", 1))
    shared.tell(*(signer(name).accuse(State.SUSPECT, "cleo", 1) for name in ("dora", "emil", "bert")))
    for one in (alone, shared):
        one.pass_time(6, lambda to, message: all_answer(to, message) if to != "cleo" else [])
    assert alone.state("cleo") is State.SUSPECT
    assert shared.state("cleo") is State.DEAD


def test_nobody_is_dead_on_one_members_word():
    one = One()
    one.tell(signer("bert").accuse(State.DEAD, "cleo", 1))
    assert one.state("cleo") is State.SUSPECT


def test_the_dead_are_tried_now_and_then_and_told_what_is_said_of_them():
    one = One()
    one.pass_time(60, only_others_answer("cleo"))
    assert one.state("cleo") is State.DEAD
    sent = one.pass_time(30, only_others_answer("cleo"))
    tries = [message for to, message in sent if to == "cleo"]
    assert 2 <= len(tries) <= 8
    assert all(isinstance(message, Ping) and len(message.statements) >= 2 for message in tries)
    one.tell(signer("cleo").alive(2, [], ""), by="cleo")
    assert one.state("cleo") is State.ALIVE


def test_a_dead_member_is_not_tried_for_ever():
    one = One(dead_tried_s=30.0)
    one.pass_time(100, only_others_answer("cleo"))
    assert not [to for to, _ in one.pass_time(60, only_others_answer("cleo")) if to == "cleo"]


def test_who_leaves_says_so_and_is_silent():
    one = One()
    goodbye = one.swim.leave(one.now)
    statement = signer("anna").left(1).raw
    assert len(goodbye) >= 3
    assert all(decode(out.data) == Gossip((statement,)) for out in goodbye)
    assert one.hear(Ping(1)) == []
    assert one.swim.tick(1.0) == []
    again = one.swim.start(2.0, seeds={"bert": []})
    assert [out.to for out in again] == ["bert"]
    assert one.swim.incarnation == 2


def test_who_has_left_is_not_suspected_and_comes_back_with_a_higher_incarnation():
    one = One()
    one.tell(signer("cleo").left(1))
    assert one.state("cleo") is State.LEFT
    one.tell(signer("bert").accuse(State.SUSPECT, "cleo", 1), signer("cleo").alive(1, [], ""))
    assert one.state("cleo") is State.LEFT
    one.tell(signer("cleo").alive(2, [], ""))
    assert one.state("cleo") is State.ALIVE


def test_the_dead_and_those_who_left_are_accused_no_more():
    one = One(confirmations=1)
    one.tell(signer("cleo").left(1))
    one.tell(signer("bert").accuse(State.SUSPECT, "dora", 1))
    one.pass_time(60, only_others_answer("dora"))
    assert (one.state("cleo"), one.state("dora")) == (State.LEFT, State.DEAD)
    accusations = [signer("emil").accuse(State.DEAD, name, 1) for name in ("cleo", "dora")]
    one.tell(*accusations, by="emil")
    sent = [message for _, message in one.pass_time(9, all_answer) if hasattr(message, "statements")]
    assert not {raw for message in sent for raw in message.statements} & {one.raw for one in accusations}
    assert (one.state("cleo"), one.state("dora")) == (State.LEFT, State.DEAD)


def test_who_did_not_hear_a_refutation_is_told_it_when_it_accuses_again():
    one = One()
    accusation = signer("bert").accuse(State.SUSPECT, "anna", 1)
    one.tell(accusation)
    one.pass_time(20, all_answer)  # it was told to all, and bert missed it
    for message in (Ping(7, (accusation.raw,)), Gossip((accusation.raw,))):
        told = [raw for to, answer in one.hear(message) if to == "bert" for raw in getattr(answer, "statements", ())]
        assert told == [signer("anna").alive(2, ["anna:1"], "").raw]


def test_a_seed_is_tried_for_as_long_as_it_is_not_here():
    one = One(dead_tried_s=20.0)
    one.tell(signer("cleo").accuse(State.SUSPECT, "bert", 1), by="cleo")
    one.pass_time(300, only_others_answer("bert"))
    assert one.state("bert") is State.DEAD
    assert "bert" in {to for to, message in one.pass_time(60, only_others_answer("bert")) if isinstance(message, Ping)}


def test_what_was_under_way_before_leaving_blames_nobody_afterwards():
    one = One()
    one.tell(signer("cleo").accuse(State.SUSPECT, "dora", 1), by="cleo")
    one.pass_time(1.2)  # a probe is under way
    one.swim.leave(one.now)
    assert one.swim.due == math.inf
    one.now += 3600
    one.swim.start(one.now, seeds={"bert": ["bert:1"]})
    sent = one.pass_time(2.5, all_answer)
    assert {type(message) for _, message in sent if isinstance(message, Ping | PingReq)} == {Ping}
    assert one.state("dora") is State.SUSPECT
    assert {one.state(name) for name in ("bert", "cleo", "emil")} == {State.ALIVE}


def test_a_member_that_stood_still_holds_it_against_nobody():
    one = One()
    one.tell(signer("bert").accuse(State.SUSPECT, "cleo", 1))
    one.pass_time(1, all_answer)
    one.now += 600
    one.swim.tick(one.now)
    assert one.state("cleo") is State.SUSPECT
    assert {one.state(name) for name in ("bert", "dora", "emil")} == {State.ALIVE}
    assert one.swim.health > 0


def test_an_answer_that_came_while_a_member_stood_still_counts():
    one, sent = One(), []
    while not sent:
        sent = [(to, message) for to, message in one.pass_time(0.05) if isinstance(message, Ping)]
    [(target, ping)] = sent
    one.now += 600
    one.swim.tick(one.now)
    assert one.state(target) is State.ALIVE
    one.hear(Ack(ping.sequence), by=target)
    one.pass_time(5, all_answer)
    assert {one.state(name) for name in NAMES} == {State.ALIVE}


@pytest.mark.parametrize(
    "old",
    [
        signer("cleo").alive(4, ["old:1"], ""),
        signer("cleo").left(4),
        signer("bert").accuse(State.SUSPECT, "cleo", 4),
        signer("bert").accuse(State.DEAD, "cleo", 4),
    ],
)
def test_what_is_said_of_a_life_that_is_over_changes_nothing(old):
    one = One(known=[])
    one.tell(signer("cleo").alive(5, ["new:1"], ""))
    one.tell(old)
    [cleo] = [member for member in one.swim.members if member.name == "cleo"]
    assert (cleo.state, cleo.incarnation, cleo.addresses) == (State.ALIVE, 5, ("new:1",))


def test_what_another_knows_better_is_sent_and_what_it_knows_alone_is_asked_for():
    one = One(known=["bert", "cleo"])
    rows = (("bert", 1, 0), ("cleo", 5, 0), ("dora", 1, 0), ("stranger", 1, 0))
    [(to, answer)] = one.hear(Summary("", "", rows))
    assert to == "bert"
    assert isinstance(answer, States)
    assert answer.wants == ("cleo", "dora")
    assert answer.statements == (signer("anna").alive(1, ["anna:1"], "").raw,)
    [(_, given)] = one.hear(States((), ("anna", "cleo", "nobody")))
    assert given.statements[1] == signer("cleo").alive(1, ["cleo:1"], "").raw


def test_a_changed_model_is_told():
    one = One()
    one.swim.update(one.now, addresses=["anna:2"], model="digits-4")
    [anna] = [member for member in one.swim.members if member.name == "anna"]
    assert (anna.incarnation, anna.addresses, anna.model) == (2, ("anna:2",), "digits-4")
    news = {raw for _, message in one.pass_time(1) if isinstance(message, Gossip) for raw in message.statements}
    assert signer("anna").alive(2, ["anna:2"], "digits-4").raw in news


def test_news_is_passed_on_a_limited_number_of_times_the_newest_first():
    news = Broadcasts()
    statements = [signer(name).alive(1, [], "") for name in NAMES]
    for statement in statements:
        news.put(statement)
    size = len(statements[0].raw) + 3
    sent = [raw for _ in range(20) for raw in news.pick(2 * size, 3)]
    assert {sent.count(statement.raw) for statement in statements} == {3}
    assert not news
    news.put(statements[0])
    news.pick(size, 3)
    news.put(statements[1])
    assert news.pick(size, 3) == [statements[1].raw]
    news.put(signer("bert").accuse(State.SUSPECT, "cleo", 1))
    news.put(signer("cleo").alive(2, [], ""))
    assert signer("bert").accuse(State.SUSPECT, "cleo", 1).raw not in news.pick(9 * size, 3)


def test_the_mesh_is_in_every_signature():
    one = One(known=[])
    one.tell(signer("cleo", "other-mesh").alive(5, [], ""))
    assert one.state("cleo") is None
    assert one.swim.counts["proof"] == 1
    assert MESH != "other-mesh"


def test_who_is_heard_is_not_accused_though_its_answers_are_late():
    """They wait behind a model, on a slow link."""
    one = One(known=["cleo"])
    for _ in range(40):
        one.pass_time(0.2)
        one.heard["cleo"] = one.now
    assert one.state("cleo") is State.ALIVE
    one.pass_time(5)
    assert one.state("cleo") is State.SUSPECT
