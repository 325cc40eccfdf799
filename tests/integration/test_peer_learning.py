"""Members that train: real models, real data, real secure aggregation, real sockets."""

import hashlib

from mesh_learning import LearningNodes
from mesh_nodes import in_loop, until

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
