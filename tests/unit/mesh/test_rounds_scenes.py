"""What docs/mesh.md shows in pictures is what happens."""

import pytest
import round_scenes
from round_pictures import SCENES, draw

KILLED = ["killed_behind_the_signatures", "killed_before_them", "killed_in_the_vote"]


def results(scene):
    """Round -> who has it, when; and all of them are one."""
    found = {}
    for name, when, result in scene.certified:
        found.setdefault(result.round, {})[name] = when
    assert len({result.hash for _, _, result in scene.certified}) == len(found)
    return found


def trainings(scene):
    return sorted((name, number, attempt) for name, _, _, number, attempt in scene.trained)


@pytest.mark.parametrize("name", [play.__name__ for play, _ in SCENES.values()])
def test_a_scene_is_safe_and_everybody_has_every_result(name):
    scene = getattr(round_scenes, name)()
    scene.world.check()
    assert scene.world.voids() == 0
    assert all(len(has) == len(scene.world.names) for has in results(scene).values())


def test_nothing_goes_wrong():
    scene = round_scenes.as_it_should()
    assert trainings(scene) == [(name, 1, 0) for name in scene.world.names]
    asked = [
        scene.of(what)[0].at for what in ("train", "handover", "sign", "quorum", "prepare?", "commit?", "certify?")
    ]
    assert asked == sorted(asked)
    assert len({one.sender for one in scene.of("prepare?")}) == 1


@pytest.mark.parametrize("name", ["killed_behind_the_signatures", "killed_in_the_vote"])
def test_who_is_followed_behind_the_signatures_is_not_trained_for_again(name):
    scene = getattr(round_scenes, name)()
    (first,) = scene.fallen
    assert trainings(scene) == [(name, 1, 0) for name in scene.world.names]
    (second,) = {one.sender for one in scene.of("certify?")}
    assert second != first
    assert scene.of("handover", to=second), "a deputy is who goes on"
    assert first in scene.world.results[1].survivors, "its own input is in the sum"


def test_who_is_followed_before_them_is():
    scene = round_scenes.killed_before_them()
    (first,) = scene.fallen
    again = [name for name, _, attempt in trainings(scene) if attempt == 1]
    assert again == sorted(set(scene.world.names) - {first})
    assert scene.world.results[1].attempt == 1
    assert first not in scene.world.results[1].survivors


def test_the_locked_get_the_result_that_they_are_locked_on():
    scene = round_scenes.killed_in_the_vote()
    assert {one.round for one in scene.of("prepare?")} == {1}
    assert len({one.sender for one in scene.of("commit?")}) == 2
    assert not scene.of("quorum", sender=scene.of("certify?")[0].sender), "the sum is not worked out again"


def test_the_five_go_on_and_the_two_catch_up():
    scene = round_scenes.apart()
    since, until, (five, two) = scene.apart[0]
    second = results(scene)[2]
    assert all(since < second[name] < until for name in five)
    assert all(second[name] > until for name in two)
    assert {name for name, number, _ in trainings(scene) if number == 2} == set(five)


def test_without_a_quorum_nobody_begins():
    scene = round_scenes.nobody_has_a_quorum()
    _, until, _ = scene.apart[0]
    assert min(begin for _, begin, *_ in scene.trained) > until
    assert {attempt for _, _, attempt in trainings(scene)} == {0}, "no attempt was lost while they waited"


@pytest.mark.parametrize("name", ["mesh-round-before", "mesh-round-apart"])
def test_it_is_drawn(tmp_path, name):
    play, title = SCENES[name]
    draw(play(), title, tmp_path / "scene.png")
    assert (tmp_path / "scene.png").read_bytes().startswith(b"\x89PNG")
