"""Members that average by gossip: real models, real data, real secure aggregation, real sockets."""

from mesh_averaging import AveragingNodes
from mesh_nodes import in_loop

NAMES = ("anna", "bert", "cleo", "dora", "emil")


@in_loop
async def test_members_average_without_an_aggregator_and_learn(tmp_path):
    async with AveragingNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
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
