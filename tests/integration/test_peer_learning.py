"""Members that train: real models, real data, real secure aggregation, real sockets."""

import hashlib

import pytest
from mesh_learning import LearningNodes
from mesh_nodes import in_loop, until

from fedmesh.events import ModelChecked
from fedmesh.registry.founding import create
from fedmesh.registry.repository import Repository

NAMES = ("anna", "bert", "cleo", "dora")


@in_loop
async def test_three_rounds_without_a_server_learn(tmp_path):
    async with LearningNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        begun = await nodes.begin_run(rounds=3)
        await until(lambda: nodes.is_over(*NAMES), 150.0, about=nodes.stories)
        results = nodes.results("anna")
        assert [len(result.survivors) for result in results] == [4, 4, 4]
        assert all(nodes.results(name) == results for name in NAMES)
        models = [hashlib.sha256(begun.model).digest(), *(result.model for result in results)]
        assert len(set(models)) == 4
        assert nodes.accuracy(begun, models[-1]) > nodes.accuracy(begun, models[0])


@pytest.mark.exhaustive
@in_loop
async def test_a_publisher_that_was_killed_behind_the_certificate_signs_the_model_when_it_is_back(tmp_path):
    create(tmp_path / "models")
    publishes = f'[publish]\nfolder = "{tmp_path / "models"}"\n'

    def checked():
        return sum(isinstance(event, ModelChecked) for event in nodes.events["bert"])

    async with LearningNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(bert=publishes)
        await nodes.begin_run(rounds=1)
        await until(lambda: nodes.is_over(*NAMES) and checked(), 240.0, about=nodes.stories)
        first = Repository.open(tmp_path / "models").versions()
        (mark,) = nodes.state("bert").glob("runs/*/learning/delivered")
        for written in (b"1", b"0"):
            await nodes.leave("bert")
            mark.write_bytes(written)
            await nodes.enter("bert", more=publishes)
            if written == b"1":
                assert not nodes.run_of("bert")._preparing  # nothing is owed: it is not loaded
        await until(lambda: mark.read_bytes() == b"1", 240.0, about=nodes.stories)
        assert checked() == 2
        assert [version.number for version in Repository.open(tmp_path / "models").versions()] == [
            version.number for version in first
        ]
        await until(lambda: not nodes.nodes["bert"].runs._learning._sessions, 60.0)
