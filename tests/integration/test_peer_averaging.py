"""Members that average by gossip, whole: processes that train with torch, real data, sockets, ledgers, signatures."""

import asyncio
import json

import pytest
from mesh_averaging import AveragingNodes
from mesh_nodes import in_loop, until

from fedmesh.cli import main
from fedmesh.events import ModelChecked
from fedmesh.privacy.ledger_file import read_ledger
from fedmesh.registry.founding import create
from fedmesh.registry.repository import Repository
from fedmesh.testing.loopback_broker import free_port

pytestmark = pytest.mark.exhaustive

NAMES = ("anna", "bert", "cleo", "dora", "emil")
PATIENT_S = 500.0
PUBLISHES = '[publish]\nfolder = "repository"\n'


@in_loop
async def test_members_average_without_an_aggregator_learn_and_one_publishes_its_own_model(tmp_path):
    create(tmp_path / "repository")
    async with AveragingNodes(tmp_path, *NAMES) as nodes:
        for name in NAMES:
            await nodes.enter(name, more=PUBLISHES if name == "cleo" else "")
        await until(lambda: all(set(nodes.view(name)) >= set(NAMES) for name in NAMES))
        await nodes.begin_run(steps=2)
        await nodes.ends()
        for name in NAMES:
            assert {step: outcome for step, (outcome, _) in nodes.steps(name).items()} == {1: "mixed", 2: "mixed"}
            assert sorted(nodes.steps(name)[2][1]) == list(NAMES)
            status = nodes.nodes[name].status
            assert (status["round"], status["aggregator"]) == (None, None)
            assert [(run["kind"], run["state"], run["results"]) for run in status["runs"]] == [("gossip", "over", 2)]
        models = nodes.models()
        assert (models.max(axis=0) - models.min(axis=0)).max() == 1
        assert min(nodes.accuracy_of(name) for name in NAMES) > nodes.accuracy_at_first()

        def checked():
            return [event for event in nodes.events["cleo"] if isinstance(event, ModelChecked)]

        await until(lambda: checked() and checked()[-1].round == 2, about=nodes.stories)
        assert checked()[-1].max_abs_logit_difference == 0
        newest = max(Repository.open(tmp_path / "repository").versions(), key=lambda version: version.number)
        assert (newest.manifest.task, newest.manifest.round, newest.manifest.survivors) == ("digits", 2, 5)


def test_processes_average_one_is_killed_in_a_step_and_no_step_is_paid_for_twice(tmp_path, capsys):
    """Five processes that load torch at once take their time: it waits longer than other tests."""
    asyncio.run(asyncio.wait_for(killed_in_a_step(tmp_path, capsys), 4 * PATIENT_S))


async def killed_in_a_step(tmp_path, capsys):
    async with AveragingNodes(tmp_path, *NAMES) as nodes:
        nodes.ports = {name: free_port() for name in NAMES}
        for name in NAMES:
            nodes.start(name)
        await until(lambda: all(set(nodes.view(name)) >= set(NAMES) for name in NAMES), PATIENT_S)
        settings = {
            "strategy.name": "gossip", "strategy.options.group": 4, "rounds": 4, "client.batching": "never",
            "privacy.mode": "shared", "client.momentum": 0.0, "privacy.dropouts": 0.2, "model.pretrain_epochs": 3,
        }  # fmt: skip
        pairs = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        options = ["--mesh", "--config", str(tmp_path / "anna.toml"), "--json", *pairs]
        assert await asyncio.to_thread(main, ["run", "start", "digits", *options]) == 0
        begun = json.loads(capsys.readouterr().out)
        assert (begun["kind"], begun["group"], begun["rounds"]) == ("gossip", 4, 4)
        folder = nodes.state("dora") / "runs" / begun["run"] / "learning"
        await until((folder / "begun").exists, PATIENT_S, about=lambda: nodes.said("dora"))
        status = nodes.status("anna")
        assert status["round"] >= 1
        assert status["aggregator"] is None
        nodes.processes["dora"].kill()
        nodes.processes["dora"].wait()
        others = [name for name in NAMES if name != "dora"]
        await until(
            lambda: all(len(steps(nodes, name)) >= 1 for name in others), PATIENT_S, about=lambda: nodes.said("anna")
        )
        nodes.start("dora")
        await until(lambda: all(ended(nodes, name) for name in NAMES), PATIENT_S, about=lambda: nodes.said("dora"))
        for name in NAMES:
            labels = [charge.event.label for charge in read_ledger(ledger_of(nodes, name))[1].charges]
            assert len(set(labels)) == len(labels)
            assert set(labels) <= {f"digits/step-{step}" for step in range(1, 5)}
        assert all(set(steps(nodes, name)) == {1, 2, 3, 4} for name in others)


def ledger_of(nodes, name):
    return nodes.state(name) / "ledgers" / f"{name}.ledger"


def steps(nodes, name):
    return {event["step"]: event["outcome"] for event in nodes.told(name) if event["event"] == "StepAveraged"}


def ended(nodes, name):
    return any(event["event"] == "RunEnded" for event in nodes.told(name))
