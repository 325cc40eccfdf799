"""Runs of a mesh on real nodes: charters, rounds and blobs over loopback, with a stand-in for secure aggregation."""

import asyncio
import math
import time

from mesh_nodes import in_loop, until
from mesh_runs import NAMES, RunNodes

from fedmesh.events import AttemptBegun, RoundCertified, RunDeclined, RunEnded, RunJoined
from fedmesh.mesh.rounds import Schedule
from fedmesh.peer.status import ask

SHORT = Schedule(6.0, 3.0, 1.0)
"""Where a device that has gone is waited for."""


def stories(nodes, names=NAMES):
    return lambda: [nodes.story(name) for name in names]


def told(nodes, name, kind):
    return [event for event in nodes.events[name] if isinstance(event, kind)]


async def over(nodes, *names):
    await until(lambda: nodes.is_over(*names), 70.0, about=stories(nodes, names))


@in_loop
async def test_five_nodes_finish_three_rounds_with_equal_chains(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        charter = nodes.begin("anna", NAMES)
        await over(nodes, *NAMES)
        chains = [nodes.hashes(name) for name in NAMES]
        assert len(chains[0]) == 3
        assert chains == [chains[0]] * 5
        for name in NAMES:
            certified = told(nodes, name, RoundCertified)
            assert [(event.round, event.is_void) for event in certified] == [(1, False), (2, False), (3, False)]
            assert certified[1].epsilon == 1.0
            assert len(told(nodes, name, RunJoined)) == len(told(nodes, name, RunEnded)) == 1
            assert nodes.learning[name].certified_rounds == [1, 2, 3]
            assert nodes.learning[name].scenarios == [b'name = "test"']
        status = nodes.nodes["bert"].status
        assert (status["round"], status["aggregator"]) == (None, None)
        shown = {"task": "digits", "state": "over", "round": 3, "rounds": 3, "results": 3, "void": 0}
        assert shown.items() <= status["runs"][0].items()
        assert status["runs"][0]["run"] == charter.run.hex()


@in_loop
async def test_what_is_over_sends_nothing_and_keeps_the_last_model_only(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        charter = nodes.begin("anna", NAMES)
        await over(nodes, *NAMES)
        last = nodes.results("anna")[-1].result
        wanted = {digest.hex() for digest in (charter.scenario, last.model, last.state)}
        for name in NAMES:
            assert nodes.run_of(name).member.due == math.inf
            await until(lambda name=name: {path.name for path in (nodes.state(name) / "blobs").iterdir()} == wanted)


@in_loop
async def test_the_others_go_on_when_the_coordinator_dies_in_a_round(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=1.0)
        nodes.begin("anna", NAMES)  # whose attempts are longer than this test waits
        await until(lambda: all(nodes.hashes(name) for name in NAMES), 240.0, about=stories(nodes))
        await until(lambda: all(nodes.nodes[name].status["round"] == 2 for name in NAMES), 30.0)
        await until(lambda: any((2, 0) in nodes.learning[name].trained for name in NAMES), 240.0, about=stories(nodes))
        dead = nodes.nodes["bert"].status["aggregator"]
        await nodes.kill(dead)
        left = [name for name in NAMES if name != dead]
        await over(nodes, *left)
        assert [nodes.hashes(name) for name in left] == [nodes.hashes(left[0])] * 4
        assert len(nodes.hashes(left[0])) == 3
        assert any(event.aggregator != dead for name in left for event in told(nodes, name, AttemptBegun))


@in_loop
async def test_who_was_killed_and_restarted_takes_its_run_up_and_catches_up(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=0.3)
        nodes.begin("anna", NAMES, schedule=SHORT)
        await until(lambda: nodes.hashes("emil"), 240.0, about=stories(nodes))
        before = nodes.hashes("emil")
        await nodes.kill("emil")
        left = NAMES[:-1]
        await over(nodes, *left)
        doubted = nodes.nodes["anna"].transport.carrier.pool.doubted
        await until(lambda: "emil" in doubted, 60.0)
        await nodes.enter("emil")
        await until(lambda: "emil" not in doubted, 60.0)
        assert nodes.hashes("emil")[: len(before)] == before
        await over(nodes, "emil")
        assert nodes.hashes("emil") == nodes.hashes("anna")
        await nodes.leave("emil")
        await nodes.enter("emil")  # and once more: a run that is over is just there
        assert nodes.is_over("emil")
        assert nodes.learning["emil"].scenarios == []


@in_loop
async def test_a_mesh_that_was_killed_as_a_whole_goes_on_where_it_was(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=0.5)
        nodes.begin("anna", NAMES, attempts=8)  # whose attempts are longer than this test waits
        await until(lambda: all(nodes.hashes(name) for name in NAMES), 240.0, about=stories(nodes))
        first = nodes.hashes("anna")[0]
        for name in NAMES:
            await nodes.kill(name)
        for name in NAMES:
            await nodes.enter(name)
        await over(nodes, *NAMES)
        assert [nodes.hashes(name) for name in NAMES] == [nodes.hashes("anna")] * 5
        assert nodes.hashes("anna")[0] == first


@in_loop
async def test_a_late_member_gets_charter_results_and_blobs_from_who_is_there(tmp_path):
    async with RunNodes(tmp_path, *NAMES, rights=["bert"]) as nodes:
        here = NAMES[:-1]
        await nodes.enter_all(here)
        nodes.begin("bert", NAMES)
        await over(nodes, *here)
        await nodes.leave("bert")  # who signed the charter is not needed
        await nodes.enter("emil")
        await over(nodes, "emil")
        assert nodes.hashes("emil") == nodes.hashes("anna")
        last = nodes.results("emil")[-1].result
        blobs = nodes.nodes["emil"].runs.blobs
        await until(lambda: last.model in blobs and last.state in blobs, 240.0, about=stories(nodes, ["emil"]))
        assert blobs.get(last.model) == nodes.nodes["anna"].runs.blobs.get(last.model)


@in_loop
async def test_a_late_member_joins_a_run_of_which_one_is_revoked_and_that_one_counts_no_more(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        here, left = NAMES[:-1], [name for name in NAMES if name != "dora"]
        await nodes.enter_all(here)
        for name in here:
            nodes.learning[name].gate.clear()
        nodes.begin("anna", NAMES, attempts=8)
        await until(lambda: all(nodes.run_of(name) is not None for name in here), 30.0)
        nodes.mesh.issuer.revoke("dora", time.time())
        roster, revocations = nodes.lists()
        for name in ("anna", "emil"):
            (tmp_path / name / "roster.signed").write_bytes(roster)
            (tmp_path / name / "revocations.signed").write_bytes(revocations)
        await nodes.enter("emil")
        await until(lambda: nodes.run_of("emil") is not None, 60.0, about=stories(nodes))
        for name in here:
            nodes.learning[name].gate.set()
        await over(nodes, *left)
        assert [nodes.hashes(name) for name in left] == [nodes.hashes("anna")] * 4
        last = nodes.results("emil")[-1]
        assert set(last.signatures) == set(left)
        assert "dora" not in {nodes.run_of(name).member.coordinator for name in left}


@in_loop
async def test_who_is_no_member_tells_the_charter_on_and_takes_no_part(tmp_path):
    async with RunNodes(tmp_path, *NAMES, "gast") as nodes:
        await nodes.enter_all()
        nodes.begin("anna", NAMES)
        await over(nodes, *NAMES)
        await until(lambda: nodes.run_of("gast") is not None, 30.0)
        assert nodes.nodes["gast"].status["runs"][0]["state"] == "elsewhere"
        assert nodes.nodes["gast"].status["round"] is None
        assert nodes.learning["gast"].scenarios == []


@in_loop
async def test_who_does_not_learn_or_declines_votes_and_the_rest_trains(tmp_path):
    names = (*NAMES, "fred")
    async with RunNodes(tmp_path, *names) as nodes:
        for name in names[:4]:
            await nodes.enter(name)
        await nodes.enter("emil", declines="its budget is spent")
        await nodes.enter("fred", learns=False)
        await until(lambda: all(set(nodes.view(name)) == set(names) for name in names), 40.0)
        nodes.begin("anna", names, attempts=8)
        await over(nodes, *names)
        assert [nodes.hashes(name) for name in names] == [nodes.hashes("anna")] * 6
        sums = [certificate.result for certificate in nodes.results("anna") if not certificate.result.is_void]
        assert sums
        assert all(result.survivors == names[:4] for result in sums)
        assert [event.why for event in told(nodes, "emil", RunDeclined)] == ["its budget is spent"]


@in_loop
async def test_a_node_is_asked_for_its_runs(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        for name in NAMES:
            nodes.learning[name].gate.clear()
        charter = nodes.begin("anna", NAMES)
        await until(lambda: all(nodes.run_of(name) is not None for name in NAMES), 30.0)
        said = await asyncio.to_thread(ask, nodes.state("cleo"))
        assert said["round"] == 1
        assert said["aggregator"] in NAMES
        assert said["runs"][0]["run"] == charter.run.hex()
        for name in NAMES:
            nodes.learning[name].gate.set()
        await over(nodes, *NAMES)


@in_loop
async def test_inputs_of_eleven_million_parameters_arrive_from_all_at_once(tmp_path):
    async with RunNodes(tmp_path, *NAMES[:4]) as nodes:
        await nodes.enter_all(NAMES[:4])
        anna, size = nodes.nodes["anna"], 11_000_000 * 19 // 8
        for number, name in enumerate(NAMES[1:4]):
            packet = bytes([1, 3]) + bytes([number]) * 32 + bytes(size)  # of runs that she does not know
            nodes.nodes[name].runs._packets.send("anna", packet)
        await until(lambda: anna.runs.counts["run"] == 3, 240.0, about=lambda: [anna.runs.counts, anna.counts])
        assert not any(nodes.nodes[name].runs.counts["too-long"] for name in NAMES[1:4])


@in_loop
async def test_a_minority_finishes_nothing_and_gets_what_it_missed_when_it_is_back(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=0.3)
        nodes.begin("anna", NAMES, rounds=4)
        await until(lambda: all(nodes.hashes(name) for name in NAMES), 240.0, about=stories(nodes))
        nodes.part(NAMES[:4], NAMES[4:])
        cut = len(nodes.hashes("emil"))
        await over(nodes, *NAMES[:4])
        assert len(nodes.hashes("emil")) <= cut + 1  # one may have been on its way
        assert not nodes.is_over("emil")
        nodes.heal()
        await over(nodes, "emil")
        assert nodes.hashes("emil") == nodes.hashes("anna")


@in_loop
async def test_two_halves_without_a_quorum_wait_for_each_other(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=0.3)
        for name in NAMES:
            nodes.learning[name].gate.clear()
        nodes.begin("anna", NAMES, attempts=8)
        await until(lambda: any(nodes.learning[name].trained for name in NAMES), 240.0, about=stories(nodes))
        nodes.part(NAMES[:3], NAMES[3:])
        for name in NAMES:
            nodes.learning[name].gate.set()
        await until(lambda: nodes.view("anna")["emil"] == nodes.view("emil")["anna"] == "dead", 240.0)
        assert not any(nodes.hashes(name) for name in NAMES)
        nodes.heal()
        await over(nodes, *NAMES)
        assert [nodes.hashes(name) for name in NAMES] == [nodes.hashes("anna")] * 5
