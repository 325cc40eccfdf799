"""A neighbour that gives something else than what was signed, or asks too much, against running nodes."""

import hashlib

import pytest
from mesh_intruders import Insider, refused
from mesh_nodes import Nodes, in_loop, until
from registry_worlds import weights
from swarm_liars import Forger, flipped
from swarm_worlds import Origin

from fedmesh.mesh.swarm.messages import Request, encode
from fedmesh.registry.describing import Facts
from fedmesh.registry.founding import create

TAKERS = ("anna", "bert")
TAKES = '[registry]\ntrusted_root = "root.json"\n'
GIVES = '[publish]\nfolder = "repository"\n'


def accept(_path, _manifest):
    """A probe that is content."""


def poisoned(origin):
    Forger(origin, lambda name, data: flipped(data) if name.startswith("chunks/") else data)
    return origin.swarm


def forged_manifest(origin):
    Forger(origin, lambda name, data: flipped(data) if ".manifest-" in name else data)
    return origin.swarm


def endless_manifest(origin):
    Forger(origin, lambda name, data: data + bytes(2 << 20) if ".manifest-" in name else data)
    return origin.swarm


def forged_timestamp(origin):
    Forger(origin, lambda name, data: flipped(data) if "timestamp" in name else data)
    return origin.swarm


LIES = {
    poisoned: "chunk",
    forged_manifest: "file",
    endless_manifest: "oversize",
    forged_timestamp: "metadata",
}


@pytest.mark.parametrize("lie", LIES)
@in_loop
async def test_what_was_not_signed_is_not_installed_and_the_truth_is_still_found(tmp_path, lie):
    """Mallory is everybody's only source at first, with a copy of all that is public; the publisher comes later."""
    repository = create(tmp_path / "repository")
    (tmp_path / "root.json").write_bytes(repository.root_bytes())
    (tmp_path / "model.onnx").write_bytes(data := weights(1, 600_000))
    repository.publish(tmp_path / "model.onnx", Facts(task="digits", round=1))
    async with Nodes(tmp_path, *TAKERS, "cleo", "mallory") as nodes, Insider(nodes) as mallory:
        for name in TAKERS:
            await nodes.enter(name, more=TAKES, probe=accept)
        mallory.give(lie(Origin(repository, 1)))
        await mallory.link(*TAKERS)
        for name in TAKERS:
            node = nodes.nodes[name]
            await until(lambda node=node: refused(node, "swarm", LIES[lie]) >= 1)
            assert node.offering.part.current is None
        await nodes.enter("cleo", more=GIVES)

        def has(name):
            path = nodes.nodes[name].offering.part.current
            return path is not None and hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()

        await until(lambda: all(map(has, TAKERS)), 60.0)


@in_loop
async def test_a_neighbour_that_asks_for_everything_again_and_again_is_cut_short(tmp_path):
    repository = create(tmp_path / "repository")
    (tmp_path / "root.json").write_bytes(repository.root_bytes())
    (tmp_path / "model.onnx").write_bytes(weights(1, 600_000))
    repository.publish(tmp_path / "model.onnx", Facts(task="digits", round=1))
    async with Nodes(tmp_path, "anna", "bert", "mallory") as nodes, Insider(nodes) as mallory:
        anna = await nodes.enter("anna", more=GIVES)
        await mallory.link("anna")
        for number in range(2_000):
            await mallory.say("anna", "swarm", encode(Request(number, "metadata/timestamp.json", 0, 1000)), waits=False)
        for name in ("../keys/online.key", "metadata/../../keys/online.key"):
            await mallory.say("anna", "swarm", encode(Request(1, name, 0, 1000)))
        await until(lambda: refused(anna, "swarm", "flood") >= 1)
        held = anna.transport._endpoint._sender.held_bytes
        assert held < 1 << 20
        await nodes.enter("bert", more=TAKES, probe=accept)
        await until(lambda: nodes.nodes["bert"].offering.part.version == 1, 60.0)
        assert not any(b"PRIVATE" in data for _, _, data in mallory.heard)
