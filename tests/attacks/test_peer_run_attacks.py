"""What a member of a mesh can try against the runs of others, on real nodes: it is refused, and counted."""

import secrets

from mesh_nodes import in_loop, until
from mesh_runs import NAMES, RunNodes

from fedmesh.mesh.rounds.charter import MAX_CHARTER_BYTES
from fedmesh.mesh.rounds.messages import MAX_CONTROL_BYTES
from fedmesh.peer.charter_gossip import MAX_CHARTERS

HONEST = ("anna", "bert", "cleo", "emil")


def offer(nodes, name, digest, raw):
    """`name` tells of a charter that its own node would not believe."""
    runs = nodes.nodes[name].runs
    runs.gossip.known[digest] = raw
    runs._tell(runs.gossip.changed())


def has(nodes, name, charter):
    """Whether this node takes part in the run."""
    run = nodes.nodes[name].runs.all.get(charter.hash)
    return run is not None and run.is_live


def refused(nodes, name, reason):
    return nodes.nodes[name].runs.counts[reason]


@in_loop
async def test_a_charter_by_who_has_no_right_is_refused_and_counted(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        charter = nodes.charter("dora", NAMES)
        offer(nodes, "dora", charter.hash, charter.raw)
        await until(lambda: all(refused(nodes, name, "charter") == 1 for name in HONEST), 30.0)
        assert all(nodes.run_of(name) is None for name in HONEST)
        assert not any((nodes.state(name) / "runs" / charter.run.hex()).exists() for name in HONEST)
        nodes.mesh.issuer.grant("dora", "runs")  # and is looked at anew when the authority has given it
        roster, _ = nodes.lists()
        (tmp_path / "bert" / "roster.signed").write_bytes(roster)
        await until(lambda: all(has(nodes, name, charter) for name in HONEST), 30.0)


@in_loop
async def test_a_charter_of_another_mesh_or_altered_is_refused_and_the_honest_one_is_still_taken(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        foreign = nodes.charter("anna", NAMES, mesh="elsewhere")
        offer(nodes, "dora", foreign.hash, foreign.raw)
        await until(lambda: all(refused(nodes, name, "charter") == 1 for name in HONEST), 30.0)
        honest = nodes.charter("anna", NAMES)
        forged = bytes([honest.raw[0] ^ 1]) + honest.raw[1:]
        offer(nodes, "dora", honest.hash, forged)
        await until(lambda: all(refused(nodes, name, "charter") == 2 for name in HONEST), 30.0)
        assert all(nodes.run_of(name) is None for name in HONEST)
        nodes.nodes["anna"].runs.begin(honest)
        await until(lambda: all(has(nodes, name, honest) for name in HONEST), 30.0)


@in_loop
async def test_a_second_charter_of_one_run_is_refused(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        run = secrets.token_bytes(16)
        nodes.begin("anna", NAMES, run=run)
        await until(lambda: all(nodes.run_of(name) is not None for name in NAMES), 30.0)
        other = nodes.charter("anna", NAMES, run=run, rounds=7)
        offer(nodes, "dora", other.hash, other.raw)
        await until(lambda: all(refused(nodes, name, "charter") == 1 for name in HONEST), 30.0)
        await until(lambda: nodes.is_over(*NAMES), 70.0)
        assert all(len(nodes.hashes(name)) == 3 for name in NAMES)


@in_loop
async def test_packets_that_are_none_are_counted_and_change_nothing(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        for name in NAMES:
            nodes.learning[name].gate.clear()
        charter = nodes.begin("anna", NAMES)
        await until(lambda: all(nodes.run_of(name) is not None for name in NAMES), 30.0)
        rounds = nodes.nodes["dora"].transport.channel("rounds")
        blobs = nodes.nodes["dora"].transport.channel("blobs")
        packet = bytes([1, 3]) + charter.hash
        wrong = [
            b"x", bytes([1]), bytes([9, 0]), bytes([1, 9]), bytes([1, 1]) + b"short", bytes([1, 2]) + b"no charter",
            bytes([1, 2]) + bytes(MAX_CHARTER_BYTES + 1), bytes([1, 0]) + bytes(32 * (MAX_CHARTERS + 1)),
            packet, packet + b"\xff\xff", packet + bytes(MAX_CONTROL_BYTES + 1),
        ]  # fmt: skip
        before = refused(nodes, "bert", "malformed")
        for data in wrong:
            await rounds.send("bert", data)
        await rounds.send("bert", bytes([1, 3]) + bytes(32) + b"of a run that there is not")
        await blobs.send("bert", b"no question")
        await until(lambda: refused(nodes, "bert", "malformed") == before + len(wrong), 30.0)
        await until(lambda: nodes.nodes["bert"].runs.exchange.counts["malformed"] == 1, 30.0)
        assert refused(nodes, "bert", "run") >= 1
        for name in NAMES:
            nodes.learning[name].gate.set()
        await until(lambda: nodes.is_over(*NAMES), 70.0)


@in_loop
async def test_a_blob_with_wrong_bytes_is_refused_and_another_member_asked(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        charter = nodes.charter("anna", NAMES)
        path = nodes.state("dora") / "blobs" / charter.model.hex()
        path.write_bytes(b"model X")
        cleo, links = nodes.nodes["cleo"].runs, nodes.nodes["cleo"].transport
        await until(lambda: {"anna", "dora"} <= set(links.links), 60.0)  # else another is asked at once
        await cleo.exchange.want(charter.model, ["dora", "anna"])
        assert cleo.blobs.get(charter.model) == b"model 0"
        assert nodes.nodes["cleo"].counts["blobs"]()["hash"] == 1


@in_loop
async def test_who_makes_up_charters_is_asked_for_few_of_them(tmp_path):
    async with RunNodes(tmp_path, *NAMES[:2]) as nodes:
        await nodes.enter_all()
        rounds = nodes.nodes["bert"].transport.channel("rounds")
        gossip = nodes.nodes["anna"].runs.gossip
        for _ in range(20):
            await rounds.send("anna", bytes([1, 0]) + secrets.token_bytes(32 * MAX_CHARTERS))
        await until(lambda: len(gossip._asked) == 4)
        assert len(gossip._theirs["bert"]) <= MAX_CHARTERS
