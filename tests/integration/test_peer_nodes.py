"""Nodes in one process, over real sockets: members, lists and models go from neighbour to neighbour."""

import hashlib
import time

import pytest
from mesh_nodes import Nodes, in_loop, until
from registry_worlds import weights

from fedmesh.errors import ConfigError
from fedmesh.events import ListAccepted, MemberChanged, ModelInstalled
from fedmesh.fleet.state_folder import state_of
from fedmesh.peer.status import ask
from fedmesh.registry.describing import Facts
from fedmesh.registry.founding import create

NAMES = ("anna", "bert", "cleo", "dora")


async def entered(nodes, names=NAMES, **options):
    for name in names:
        await nodes.enter(name, **options)
    await until(lambda: all(nodes.view(name) == dict.fromkeys(names, "alive") for name in names))


def incarnations(node):
    return {one["name"]: one["incarnation"] for one in node.status["members"]}


@in_loop
async def test_members_find_each_other_by_a_seed_and_agree(tmp_path):
    async with Nodes(tmp_path, *NAMES) as nodes:
        await entered(nodes)
        await until(lambda: all(len(node.transport.links) == 3 for node in nodes.nodes.values()))
        assert all(one["incarnation"] >= 1 for one in nodes.nodes["dora"].status["members"])
        await until(lambda: nodes.nodes["anna"].members.states == {"alive": 4})


@in_loop
async def test_a_goodbye_is_no_death_and_a_restart_has_a_higher_incarnation(tmp_path):
    async with Nodes(tmp_path, *NAMES[:3]) as nodes:
        await entered(nodes, NAMES[:3])
        before = incarnations(nodes.nodes["bert"])["cleo"]
        await nodes.leave("cleo")
        await until(lambda: nodes.view("anna")["cleo"] == nodes.view("bert")["cleo"] == "left")
        await nodes.enter("cleo")
        await until(lambda: nodes.view("anna")["cleo"] == nodes.view("bert")["cleo"] == "alive")
        assert incarnations(nodes.nodes["bert"])["cleo"] > before
        told = [event for event in nodes.events["anna"] if isinstance(event, MemberChanged) and event.device == "cleo"]
        assert "dead" not in {event.state for event in told}


@in_loop
async def test_without_the_seed_they_are_found_where_they_said_that_they_are(tmp_path):
    """The seed is gone for good: who comes back finds the others by the book, or they find it."""
    async with Nodes(tmp_path, *NAMES[:3]) as nodes:
        await entered(nodes, NAMES[:3])
        await nodes.leave("cleo")
        await nodes.leave("anna")
        await nodes.enter("cleo")
        await until(lambda: nodes.view("cleo").get("bert") == nodes.view("bert").get("cleo") == "alive")


@in_loop
async def test_a_revoked_member_is_out_everywhere_once_one_node_has_the_list(tmp_path):
    async with Nodes(tmp_path, *NAMES) as nodes:
        await entered(nodes)
        nodes.mesh.issuer.revoke("dora", time.time())
        _, revocations = nodes.lists()
        (tmp_path / "bert" / "revocations.signed").write_bytes(revocations)  # as fedmesh ca lists makes it
        left = NAMES[:3]
        await until(lambda: all(nodes.view(name) == dict.fromkeys(left, "alive") for name in left))
        await until(lambda: not nodes.nodes["dora"].transport.links)
        for name in left:
            told = [event for event in nodes.events[name] if isinstance(event, ListAccepted)]
            assert [(event.kind, event.source) for event in told] == [
                ("revocations", "folder" if name == "bert" else "neighbour")
            ]
            assert "dora" not in nodes.nodes[name].transport.links
            assert not nodes.nodes[name].discovery.book.addresses("dora")


@in_loop
async def test_a_newcomer_brings_the_roster_on_which_it_is(tmp_path):
    async with Nodes(tmp_path, *NAMES[:3]) as nodes:
        await entered(nodes, NAMES[:3])
        nodes.mesh.enrol("newcomer")
        nodes.names.append("newcomer")
        nodes.events["newcomer"] = []
        await nodes.enter("newcomer")
        whole = dict.fromkeys(nodes.names, "alive")
        await until(lambda: all(nodes.view(name) == whole for name in nodes.names))


@in_loop
async def test_a_published_model_is_installed_everywhere_byte_for_byte(tmp_path):
    repository = create(tmp_path / "repository")
    (tmp_path / "root.json").write_bytes(repository.root_bytes())
    takes = '[registry]\ntrusted_root = "root.json"\n'
    async with Nodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna", more='[publish]\nfolder = "repository"\n')
        probed = []
        for name in NAMES[1:]:
            await nodes.enter(name, more=takes, probe=lambda path, manifest: probed.append(path))
        await until(lambda: all(nodes.view(name) == dict.fromkeys(NAMES, "alive") for name in NAMES))
        for version in (1, 2):
            model = tmp_path / "model.onnx"
            model.write_bytes(weights(version, 700_000))
            repository.publish(model, Facts(task="digits", round=version))
            want = hashlib.sha256(model.read_bytes()).digest()

            def is_there(name, want=want):
                path = nodes.nodes[name].offering.part.current
                return path is not None and hashlib.sha256(path.read_bytes()).digest() == want

            await until(lambda: all(is_there(name) for name in NAMES[1:]), 30.0)
            models = {name: str(version) for name in NAMES}

            def is_known(node, models=models):
                return {one["name"]: one["model"] for one in node.status["members"]} == models

            await until(lambda: all(map(is_known, nodes.nodes.values())))
        assert len(probed) == 6
        for name in NAMES[1:]:
            installed = [event.version for event in nodes.events[name] if isinstance(event, ModelInstalled)]
            assert installed == [1, 2]


def test_two_nodes_do_not_share_a_folder(tmp_path):
    with state_of(tmp_path / "state"), pytest.raises(ConfigError, match="another agent"), state_of(tmp_path / "state"):
        pass


def test_who_asks_where_no_node_runs_is_told_so(tmp_path):
    with pytest.raises(ConfigError, match="no node runs"):
        ask(tmp_path)
