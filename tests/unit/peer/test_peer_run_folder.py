"""What a run leaves on a node's disk: the proof of a fork, what a restart needs, and nothing without a bound."""

import shutil
from unittest import mock

import pytest
from mesh_nodes import in_loop, until
from mesh_runs import NAMES, FakeLearning, RunNodes

from fedmesh.errors import ConfigError
from fedmesh.events import Notice, RunForked
from fedmesh.identity import Membership
from fedmesh.mesh.rounds import Certificate, Keyring, Result
from fedmesh.mesh.rounds.messages import Certificates, Readiness, Status, encode
from fedmesh.mesh.rounds.result import result_statement
from fedmesh.peer.charter_gossip import MAX_CHARTERS
from fedmesh.secagg import Identity


def certificate(folder, charter, *, survivors=NAMES[:4], state=bytes(32), signers=NAMES):
    """Of round 1, as a quorum in league can sign it."""
    result = Result(charter.hash, 1, 0, charter.hash, tuple(survivors), bytes(32), charter.model, state)
    keys = {name: Keyring(Identity(Membership(folder / name).signing_key()), charter.members) for name in signers}
    return Certificate(result, {name: each.sign(result_statement(result)) for name, each in keys.items()})


def told(nodes, kind):
    return [event for event in nodes.events["anna"] if isinstance(event, kind)]


@in_loop
async def test_a_fork_ends_the_run_loudly_and_for_good(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        charter = nodes.begin("anna", NAMES)
        both = certificate(tmp_path, charter), certificate(tmp_path, charter, state=bytes([1]) * 32, signers=NAMES[:4])
        nodes.run_of("anna").received("bert", encode(Certificates(both), charter.hash))
        assert [event.signers for event in told(nodes, RunForked)] == ["anna, bert, cleo, dora"]
        assert any("signed two results" in event.text for event in told(nodes, Notice))
        assert nodes.nodes["anna"].status["runs"][0]["state"] == "forked"
        assert nodes.nodes["anna"].status["round"] is None
        await nodes.leave("anna")
        await nodes.enter("anna")
        assert nodes.nodes["anna"].status["runs"][0]["state"] == "forked"
        assert nodes.run_of("anna").member is None


@in_loop
async def test_a_disk_that_takes_nothing_stops_the_run_until_it_does(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        charter = nodes.begin("anna", NAMES)
        run, folder = nodes.run_of("anna"), nodes.state("anna") / "runs" / charter.run.hex()
        shutil.move(folder, tmp_path / "aside")
        ahead = encode(Status(1, 3, charter.hash, Readiness.READY), charter.hash)
        for name in ("bert", "cleo"):  # with C + 1 members ahead it follows, and has to keep that
            run.received(name, ahead)
        assert run.member is None
        assert nodes.nodes["anna"].status["runs"][0]["state"] == "stopped"
        assert [event.text for event in told(nodes, Notice) if "waits" in event.text]
        shutil.move(tmp_path / "aside", folder)
        await until(lambda: run.member is not None, 30.0)
        assert run.member.attempt == 0


@in_loop
async def test_a_damaged_ballot_is_told_and_the_node_runs(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        charter = nodes.begin("anna", NAMES)
        await nodes.leave("anna")
        (nodes.state("anna") / "runs" / charter.run.hex() / "ballot").write_bytes(b"x")
        await nodes.enter("anna")
        assert nodes.nodes["anna"].status["runs"][0]["state"] == "stopped"
        assert any("ballot is damaged" in event.text for event in told(nodes, Notice))


@in_loop
async def test_what_was_certified_while_nobody_was_told_of_it_is_told_by_the_next_start(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        charter = nodes.begin("anna", NAMES, rounds=1)
        nodes.learning["anna"].certified = lambda *_: None  # as if it was killed before it came to it
        made = certificate(tmp_path, charter, state=charter.state)
        nodes.run_of("anna").received("bert", encode(Certificates((made,)), charter.hash))
        assert nodes.is_over("anna")
        await nodes.leave("anna")
        await nodes.enter("anna")
        assert nodes.learning["anna"].scenarios == []  # nothing is owed: it is not loaded for what is over
        await nodes.leave("anna")
        with mock.patch.object(FakeLearning, "owed", new=True):
            await nodes.enter("anna")
            await until(lambda: nodes.learning["anna"].certified_rounds == [1])
        assert len(nodes.learning["anna"].scenarios) == 1


@in_loop
async def test_room_is_made_by_what_is_over_or_elsewhere_and_it_is_not_begun_again(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        runs = nodes.nodes["anna"].runs
        charters = [nodes.begin("anna", NAMES[1:]) for _ in range(MAX_CHARTERS + 1)]
        assert list(runs.all) == [charter.hash for charter in charters[1:]]
        first = charters[0]
        assert not (nodes.state("anna") / "runs" / first.run.hex()).exists()
        await nodes.leave("anna")
        await nodes.enter("anna")
        runs = nodes.nodes["anna"].runs
        assert set(runs.all) == {charter.hash for charter in charters[1:]}
        runs.gossip.connected("bert")
        assert runs.gossip.received("bert", b"\x01\x00" + first.hash, 0.0) == []


@in_loop
async def test_without_room_no_run_is_started_and_none_is_given_up(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter("anna")
        runs = nodes.nodes["anna"].runs
        for _ in range(MAX_CHARTERS):
            nodes.begin("anna", NAMES)
        with pytest.raises(ConfigError, match="wait for one"):
            nodes.begin("anna", NAMES)
        assert len(runs.all) == MAX_CHARTERS
        assert all(run.is_live for run in runs.all.values())
