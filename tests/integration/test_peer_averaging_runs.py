"""Runs of gossip averaging over real sockets: who comes, goes, rests, cannot pay, or is killed."""

import numpy as np
import pytest
from mesh_nodes import in_loop, until
from quick_averaging import NAMES, QuickAveraging, kit_of, private_dp, private_sum

from fedmesh.events import Notice, RunDeclined, RunEnded, RunJoined
from fedmesh.secagg import Policy

ALL = {1: "mixed", 2: "mixed", 3: "mixed"}


def told(nodes, name, kind):
    return [event for event in nodes.events[name] if isinstance(event, kind)]


@in_loop
async def test_all_average_in_each_step_pay_for_each_once_and_learn(tmp_path):
    async with QuickAveraging(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        nodes.learning["cleo"].gate.clear()
        nodes.start(kit=kit_of(dp=private_dp(3)))
        await until(lambda: nodes.learning["cleo"].begun == [1], about=nodes.stories)
        status = nodes.nodes["bert"].status
        assert (status["round"], status["aggregator"]) == (1, None)
        nodes.learning["cleo"].gate.set()
        await nodes.ends()
        for name in NAMES:
            assert nodes.outcomes(name) == ALL
            assert nodes.charges(name) == ["digits/round-1", "digits/round-2", "digits/round-3"]
            assert [event.rounds for event in told(nodes, name, RunEnded)] == [3]
            assert len(told(nodes, name, RunJoined)) == 1
            assert nodes.accuracy(name) > 0.4
        models = np.stack([nodes.saved(name).codes for name in NAMES])
        assert (models.max(axis=0) - models.min(axis=0)).max() == 1
        assert nodes.nodes["bert"].status["runs"][0]["state"] == "over"


@in_loop
async def test_who_is_killed_in_a_step_goes_on_behind_it_and_pays_for_none_twice(tmp_path):
    async with QuickAveraging(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        nodes.start(steps=4, kit=kit_of(dp=private_dp(4)))
        await until(lambda: 1 in nodes.outcomes("dora"), about=nodes.stories)
        nodes.learning["dora"].gate.clear()
        await until(lambda: nodes.learning["dora"].begun[-1:] == [2] or nodes.saved("dora").begun >= 2)
        before = nodes.saved("dora")
        await nodes.kill("dora")
        others = [name for name in NAMES if name != "dora"]
        await until(lambda: all(2 in nodes.outcomes(name) for name in others), about=nodes.stories)
        assert nodes.saved("dora").begun == before.begun
        await nodes.enter("dora")
        await nodes.ends()
        steps = [step for event in told(nodes, "dora", RunJoined) for step in [event.round]]
        assert steps[0] == 1
        assert steps[1] > before.begun
        charges = nodes.charges("dora")
        assert len(set(charges)) == len(charges)
        for name in others:
            assert set(nodes.outcomes(name)) == {1, 2, 3, 4}


@pytest.mark.exhaustive
@in_loop
async def test_a_node_without_data_and_one_that_declines_are_not_waited_for(tmp_path):
    names = (*NAMES, "fred", "gerd")
    async with QuickAveraging(tmp_path, *names) as nodes:
        for name in NAMES:
            await nodes.enter(name)
        await nodes.enter("fred", learns=False)
        await nodes.enter("gerd", floor=Policy(smallest_cohort=12))
        await until(lambda: all(set(nodes.view(name)) >= set(names) for name in names))
        nodes.start(steps=2)
        await nodes.ends()
        assert all(nodes.outcomes(name) == {1: "mixed", 2: "mixed"} for name in NAMES)
        assert not nodes.steps("fred")
        assert "cohorts" in told(nodes, "gerd", RunDeclined)[0].why
        assert nodes.is_over("fred", "gerd")


@in_loop
async def test_who_cannot_pay_for_its_share_of_the_noise_stays_away_and_the_others_go_on(tmp_path):
    async with QuickAveraging(tmp_path, *NAMES) as nodes:
        for name in NAMES:
            await nodes.enter(name, epsilon=0.5 if name == "emil" else 8.0)
        await until(lambda: all(set(nodes.view(name)) >= set(NAMES) for name in NAMES))
        nodes.start(kit=kit_of(summed=private_sum(3)))
        await nodes.ends()
        assert any("used up" in event.text for event in told(nodes, "emil", Notice))
        assert not nodes.charges("emil")
        for name in NAMES[:4]:
            assert nodes.steps(name)[3] == ("mixed", NAMES[:4])
            assert nodes.charges(name) == ["digits/step-1", "digits/step-2", "digits/step-3"]


@pytest.mark.exhaustive
@in_loop
async def test_a_member_that_rests_or_fails_misses_steps_and_three_alone_do_nothing(tmp_path):
    async with QuickAveraging(tmp_path, *NAMES) as nodes:
        for name in NAMES:
            await nodes.enter(name, fails={1} if name == "bert" else ())
        await until(lambda: all(set(nodes.view(name)) >= set(NAMES) for name in NAMES))
        nodes.learning["emil"].resting = "battery"
        nodes.start(steps=2)
        await until(lambda: nodes.learning["bert"].begun == [1], about=nodes.stories)
        await until(lambda: "training" in nodes.nodes["bert"].runs.counts, about=nodes.stories)
        await until(lambda: all(nodes.run_of(name).course.at == 2 for name in NAMES), about=nodes.stories)
        assert not any(2 in learning.begun for learning in nodes.learning.values())  # three of five are no sum
        nodes.learning["emil"].resting = ""
        nodes.learning["emil"].changed()
        await nodes.ends()
        last = nodes.steps("anna")[2]
        assert last[0] == "mixed"
        assert "emil" in last[1]


@in_loop
async def test_what_was_not_delivered_behind_the_last_step_is_delivered_by_the_next_start(tmp_path):
    async with QuickAveraging(tmp_path, *NAMES) as nodes:
        for name in NAMES:
            await nodes.enter(name, publishes=name in {"dora", "emil"}, delivers=name != "emil")
        await until(lambda: all(set(nodes.view(name)) >= set(NAMES) for name in NAMES))
        nodes.start(steps=2)
        await nodes.ends()
        await until(lambda: nodes.learning["dora"].delivered[-1:] == [(2, nodes.saved("dora").codes.tolist(), 5, True)])
        await until(lambda: any("step 2 was not delivered" in event.text for event in told(nodes, "emil", Notice)))
        for name in ("dora", "emil"):
            await nodes.kill(name)
            await nodes.enter(name, publishes=True)
        await until(lambda: nodes.learning["emil"].delivered == [(2, nodes.saved("emil").codes.tolist(), 5, True)])
        await until(lambda: nodes.is_over("dora", "emil"))
        assert not nodes.learning["dora"].delivered
