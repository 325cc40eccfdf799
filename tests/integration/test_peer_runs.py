"""Runs of a mesh on real nodes: charters, rounds and blobs over loopback, with a stand-in for secure aggregation."""

from mesh_nodes import in_loop, until
from mesh_runs import NAMES, RunNodes


@in_loop
async def test_five_nodes_finish_three_rounds_with_equal_chains(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        nodes.begin("anna", NAMES)
        await until(lambda: nodes.is_over(*NAMES), 60.0, about=lambda: [nodes.story(name) for name in NAMES])
        chains = [nodes.hashes(name) for name in NAMES]
        assert len(chains[0]) == 3
        assert chains == [chains[0]] * 5
