"""Who is there, by what devices have signed and when."""

import pytest

from fedmesh.fleet import roll as module
from fedmesh.fleet.protocol import Here, node_id_of
from fedmesh.fleet.roll import DECLINED_S, GRACE_S, OFFER_AGAIN_S, SILENCE_S, Roll, Stand
from fedmesh.identity import Name

RUN, NOW = 5, 1_000.0


def here(*, available=True, why="", tier="full", clients=("vision",)):
    return Here(tier, clients, available, why, 0, "test")


@pytest.fixture
def roll():
    made = Roll("home")
    assert made.admit(["a", "b"]) == []
    for name in ("a", "b"):
        made.heard(name, NOW)
        assert made.here(name, here(), sent=NOW)
    return made


def accept(roll, name, *, now=NOW, accepted=True, sent=None):
    roll.offered(RUN, name, now)
    return roll.answered(RUN, name, accepted=accepted, why="", sent=now if sent is None else sent, now=now)


def test_only_who_accepted_takes_part_and_by_its_own_number(roll):
    assert set(roll.to_offer(RUN, NOW)) == {"a", "b"}
    assert accept(roll, "a")
    assert accept(roll, "b", accepted=False)
    assert roll.taking_part(RUN, NOW) == (node_id_of(Name("home", "a")),)
    assert roll.name_of(node_id_of(Name("home", "a"))) == "a"
    assert roll.node_of("b") == node_id_of(Name("home", "b"))


def test_a_word_that_is_not_newer_changes_nothing(roll):
    assert roll.here("a", here(available=False, why="battery"), sent=NOW + 2)
    assert not roll.here("a", here(), sent=NOW + 2)
    assert not roll.here("a", here(), sent=NOW + 1)
    assert roll.last("a").why == "battery"
    assert set(roll.to_offer(RUN, NOW)) == {"b"}


def test_an_answer_counts_once_and_only_when_it_was_asked_for(roll):
    assert not roll.answered(RUN, "a", accepted=True, why="", sent=NOW, now=NOW)
    assert accept(roll, "a", sent=NOW + 5)
    assert not roll.answered(RUN, "a", accepted=False, why="budget", sent=NOW + 5, now=NOW + 6)
    assert not roll.answered(RUN, "a", accepted=False, why="budget", sent=NOW + 4, now=NOW + 6)
    assert roll.standing(RUN, "a").stand is Stand.ACCEPTED
    assert roll.answered(RUN, "a", accepted=False, why="budget", sent=NOW + 6, now=NOW + 6)
    assert roll.taking_part(RUN, NOW) == ()
    assert not roll.answered(RUN, "stranger", accepted=True, why="", sent=NOW, now=NOW)


def test_an_offer_is_made_again_when_it_was_not_answered_or_was_declined_long_ago(roll):
    roll.offered(RUN, "a", NOW)
    accept(roll, "b", accepted=False, sent=1.0)  # a clock that is behind does not have it asked all the time
    for passed, wanted in ((OFFER_AGAIN_S - 1, set()), (OFFER_AGAIN_S, {"a"})):
        assert set(roll.to_offer(RUN, NOW + passed)) == wanted
    later = NOW + DECLINED_S
    roll.heard("b", later)
    assert set(roll.to_offer(RUN, later)) == {"b"}
    roll.forgotten(RUN, "b")
    assert roll.standing(RUN, "b") is None


def test_a_device_that_trains_for_a_run_is_busy_for_others_only(roll):
    accept(roll, "a")
    roll.here("a", here(available=False, why="busy"), sent=NOW + 1)
    assert roll.taking_part(RUN, NOW) == (roll.node_of("a"),)
    assert "a" not in roll.to_offer(RUN + 1, NOW)
    roll.here("a", here(available=False, why="battery"), sent=NOW + 2)
    assert roll.taking_part(RUN, NOW) == ()


def test_who_infers_only_is_never_asked(roll):
    roll.here("a", here(tier="inference"), sent=NOW + 1)
    assert set(roll.to_offer(RUN, NOW)) == {"b"}


def test_silence_and_absence(roll):
    accept(roll, "a")
    node = roll.node_of("a")
    assert roll.taking_part(RUN, NOW + SILENCE_S) == (node,)
    assert roll.taking_part(RUN, NOW + SILENCE_S + 1) == ()
    assert roll.is_gone("a", NOW + SILENCE_S + 1)
    roll.heard("a", NOW + SILENCE_S + 2)
    assert roll.taking_part(RUN, NOW + SILENCE_S + 2) == (node,)
    left = NOW + SILENCE_S + 3
    roll.presence("a", left, there=False)
    assert roll.taking_part(RUN, left) == ()
    assert not roll.is_gone("a", left + GRACE_S)
    roll.presence("a", left + GRACE_S, there=False)  # said again: it has been away since it left
    assert roll.is_gone("a", left + GRACE_S + 1)
    roll.presence("a", left + GRACE_S + 2, there=True)
    assert roll.taking_part(RUN, left + GRACE_S + 2) == (node,)
    roll.presence("a", left + GRACE_S + 3, there=False)
    roll.heard("a", left + GRACE_S + 4)  # presence was wrong: the device itself says something
    assert roll.taking_part(RUN, left + GRACE_S + 4) == (node,)


def test_who_is_struck_off_is_gone_with_all_it_said(roll):
    accept(roll, "a")
    assert roll.admit(["b"]) == []
    assert roll.names() == ("b",)
    assert roll.taking_part(RUN, NOW) == ()
    assert roll.is_gone("a", NOW)
    assert not roll.here("a", here(), sent=NOW + 10)
    roll.admit(["a", "b"])
    assert roll.last("a") is None
    assert not roll.is_there("a", NOW)


def test_a_second_device_with_the_same_number_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "node_id_of", lambda name: 7 if name.id in {"b", "c"} else 9)
    roll = Roll("home")
    assert roll.admit(["c", "a"]) == []
    assert roll.admit(["a", "b", "c"]) == ["b"], "who was there first stays"
    assert roll.names() == ("a", "c")
    assert roll.name_of(7) == "c"
    assert roll.admit(["a", "b"]) == []
    assert roll.name_of(7) == "b"


def test_the_end_of_a_run_is_the_end_of_what_was_said_about_it(roll):
    accept(roll, "a")
    roll.ended(RUN)
    assert roll.standing(RUN, "a") is None
    assert roll.taking_part(RUN, NOW) == ()
