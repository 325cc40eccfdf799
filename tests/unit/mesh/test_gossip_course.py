"""Which step a member begins, and when: it pays for no training that no sum can take, and waits for nobody for long."""

import numpy as np
import pytest
from gossip_courses import Courses
from gossip_worlds import ID

from fedmesh.errors import DecodeError
from fedmesh.mesh.gossip import Trains, deal
from fedmesh.mesh.gossip.messages import At, Down, Here, Open, Total, Up, Wanted, decode, encode

GOLDEN = [
    (Here(1), "840100507369787465656e2062797465732e2e2e01"),
    (Open(2, ("a", "b")), "850101507369787465656e2062797465732e2e2e028261616162"),
    (Up(3, b"x"), "850102507369787465656e2062797465732e2e2e034178"),
    (Down(4, b"y"), "850103507369787465656e2062797465732e2e2e044179"),
    (
        Total(5, ("a", "b"), ("a",), b"p", b"e"),
        "880104507369787465656e2062797465732e2e2e05826161616281616141704165",
    ),
    (Wanted(6), "840105507369787465656e2062797465732e2e2e06"),
    (At(7, Trains.YES, is_open=True, asks=False), "870106507369787465656e2062797465732e2e2e0702f5f4"),
]


@pytest.mark.parametrize(("message", "data"), GOLDEN)
def test_golden_bytes(message, data):
    assert encode(message, ID).hex() == data
    assert decode(bytes.fromhex(data), ID, max_bytes=1 << 10) == message


def test_a_word_that_is_none_is_refused():
    with pytest.raises(DecodeError):
        decode(encode(At(7, 3, is_open=True, asks=False), ID), ID, max_bytes=1 << 10)


def mixed(courses, step):
    return [name for name, ended in courses.ended.items() if ended.get(step, ("", ()))[0] == "mixed"]


@pytest.mark.parametrize(("count", "seed"), [(6, 0), (13, 1), (24, 2)])
def test_where_all_are_there_all_take_every_step_together(count, seed):
    courses = Courses(count, steps=5, seed=seed)
    courses.enter()
    courses.until(courses.over)
    for step in range(1, 6):
        assert len(mixed(courses, step)) == count
    assert all(paid == [1, 2, 3, 4, 5] for paid in courses.paid.values())


def test_without_training_the_sum_over_all_stays():
    courses = Courses(13, steps=4, still=True)
    total = courses.total()
    courses.enter()
    courses.until(courses.over)
    assert courses.total().tolist() == total.tolist()
    spread = np.stack(list(courses.models.values()))
    assert (spread.max(axis=0) - spread.min(axis=0)).max() < 400


def test_who_is_alone_waits_and_pays_nothing():
    courses = Courses(12, steps=3)
    courses.enter("m00", "m01", "m02")
    courses.wait(500.0)
    assert all(course.at == 1 for course in courses.courses.values())
    assert not any(courses.paid.values())
    courses.enter(*(name for name in courses.run.members if name not in courses.courses))
    courses.until(courses.over)
    assert len(mixed(courses, 3)) == 12


def test_who_is_killed_misses_steps_comes_back_and_begins_none_twice():
    courses = Courses(6, steps=8, smallest=4)
    courses.enter()
    courses.until(lambda: courses.begun["m02"] == 2)
    courses.kill("m02")  # while it trains: step 2 is paid, and lost
    courses.until(lambda: all(course.at >= 5 for course in courses.courses.values()))
    assert all(len(mixed(courses, step)) == 5 for step in (2, 3, 4))
    courses.enter("m02")
    courses.until(courses.over)
    assert 2 in courses.paid["m02"]
    assert not {3, 4} & set(courses.paid["m02"])
    assert len(mixed(courses, 8)) == 6


def test_a_leader_that_is_killed_while_others_wait_is_replaced_at_once():
    courses = Courses(6, steps=1, smallest=4)
    (group,) = deal(courses.run.id, 1, courses.run.members, 4)
    courses.enter()
    courses.until(lambda: all(courses.begun.values()))
    courses.kill(group[0])
    courses.until(courses.over)
    assert len(mixed(courses, 1)) == 5
    assert courses.now < courses.run.step_s


def test_who_does_not_train_is_not_waited_for():
    courses = Courses(7, steps=3, smallest=4)
    courses.dull = {"m06"}
    courses.enter()
    courses.until(courses.over)
    assert all(len(mixed(courses, step)) == 6 for step in (1, 2, 3))
    assert courses.now < 3 * courses.run.wait_s + 3
    assert not courses.paid["m06"]


def test_a_step_that_no_group_can_make_is_passed_where_most_are_here():
    courses = Courses(12, steps=30, smallest=4)
    groups = deal(courses.run.id, 1, courses.run.members, 4)
    away = {group[1] for group in groups}
    courses.enter(*(name for name in courses.run.members if name not in away))
    courses.until(courses.over, 10_000)
    assert not mixed(courses, 1)
    assert not any(1 in paid for paid in courses.paid.values())
    assert any(mixed(courses, step) for step in range(2, 31))


def test_halves_that_cannot_see_each_other_wait_or_go_on_and_meet_again():
    courses = Courses(12, steps=12, smallest=6)
    names = courses.run.members
    courses.enter()
    courses.until(lambda: all(course.at >= 3 for course in courses.courses.values()))
    courses.cut(names[:6], names[6:])
    courses.wait(60.0)
    courses.cut(names)
    courses.until(courses.over, 3_000)
    assert len(mixed(courses, 12)) == 12


def test_a_liar_leads_nobody_beyond_where_honest_members_are():
    courses = Courses(7, steps=5, smallest=4)
    courses.enter(*courses.run.members[:5])
    far = encode(At(5, Trains.YES, is_open=True, asks=False), ID)
    for liar in courses.run.members[5:]:  # C = 2
        for name in courses.run.members[:5]:
            courses.arrive(liar, name, far)
    assert all(course.at == 1 for course in courses.courses.values())
    courses.arrive("m00", "m01", far)
    assert courses.courses["m01"].at == 5


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_and_whoever_is_killed_all_come_to_the_end(seed):
    courses = Courses(
        13, steps=8, seed=seed, loss=0.005, delay=0.3, trains=lambda rng: rng.uniform(0.1, 4.0), train_s=5.0
    )
    courses.enter()
    for _ in range(4):
        courses.wait(courses.rng.uniform(1.0, 10.0))
        victim = courses.rng.choice(sorted(courses.courses))
        courses.kill(victim)
        courses.wait(courses.rng.uniform(0.1, 10.0))
        courses.enter(victim)
    courses.until(courses.over, 20_000)
    for paid in courses.paid.values():
        assert len(set(paid)) == len(paid)
    assert sum(len(mixed(courses, step)) for step in range(1, 9)) >= 5 * 13
