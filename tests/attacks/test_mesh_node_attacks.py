"""An enrolled member that does not keep to the protocol, against running nodes over real sockets."""

import secrets
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mesh_intruders import Insider, Stranger, hung_up, refused
from mesh_nodes import Nodes, in_loop, until

from fedmesh.identity.names import Name
from fedmesh.mesh.membership import Signer, State
from fedmesh.mesh.membership.messages import MAX_MESSAGE_BYTES
from fedmesh.transport.limits import PARCEL_BYTES
from fedmesh.transport.list_gossip import MAX_MESSAGE_BYTES as LIST_BYTES
from fedmesh.transport.peer_wire import Kind

HONEST = ("anna", "bert", "cleo")


async def entered(nodes, names=HONEST):
    for name in names:
        await nodes.enter(name)
    await until(lambda: all_well(nodes, names))


def all_well(nodes, names=HONEST):
    return all(nodes.view(name) == dict.fromkeys(names, "alive") for name in names)


async def still_joins(nodes, name="dora"):
    """The mesh goes on: somebody new is let in, and everybody knows it."""
    await nodes.enter(name)
    names = list(nodes.nodes)
    await until(lambda: all_well(nodes, names))


@in_loop
async def test_forged_statements_change_nothing_and_are_counted(tmp_path):
    async with Nodes(tmp_path, *HONEST, "mallory", "dora") as nodes, Insider(nodes) as mallory:
        await entered(nodes)
        await mallory.link("anna")
        anna = nodes.nodes["anna"]
        # As bert, by a key that is not its own.
        forger = Signer(nodes.members["bert"].name, Ed25519PrivateKey.generate())
        said = forger.alive(1 << 20, ["127.0.0.1:9"], "evil").raw
        theirs = mallory.signer.alive(9, ["127.0.0.1:9"], "").raw
        for raw in (said, forger.left(1 << 20).raw, theirs[:64] + said[64:]):
            before = refused(anna, "membership", "proof")
            await mallory.gossip("anna", raw)
            await until(lambda before=before: refused(anna, "membership", "proof") > before)
        for subject in ("bert", "cleo"):  # its own signature, as an insider's accusation has to have
            await mallory.gossip("anna", mallory.signer.accuse(State.DEAD, subject, 1).raw)
        await mallory.say("anna", "members", secrets.token_bytes(300))
        await until(lambda: refused(anna, "membership", "malformed") == 1)
        await until(lambda: all_well(nodes))  # who was accused has said that it is there
        assert all(("127.0.0.1", 9) not in anna.discovery.addresses_of(name) for name in ("bert", "cleo"))
        told = {event.state for name in HONEST for event in nodes.events[name] if hasattr(event, "state")}
        assert told <= {"alive", "suspect"}
        await still_joins(nodes)


@in_loop
async def test_names_that_one_party_makes_up_are_nobody(tmp_path):
    async with Nodes(tmp_path, *HONEST, "mallory", "dora") as nodes, Insider(nodes) as mallory:
        await entered(nodes)
        await mallory.link(*HONEST)
        made_up = [Signer(Name("home", f"sybil-{n}"), Ed25519PrivateKey.generate()) for n in range(200)]
        raws = [each.alive(1, ["127.0.0.1:9"], "").raw for each in made_up]
        for name in HONEST:
            await mallory.gossip(name, *raws)
            await until(lambda name=name: refused(nodes.nodes[name], "membership", "name") >= 1)
        await still_joins(nodes)
        assert all("sybil-1" not in node.discovery.book._entries for node in nodes.nodes.values())


@in_loop
async def test_what_somebody_said_once_is_not_believed_again(tmp_path):
    """A goodbye of an earlier life, kept and told again, and every packet twice."""
    async with Nodes(tmp_path, *HONEST, "mallory", "dora") as nodes, Insider(nodes) as mallory:
        await entered(nodes)
        bert = nodes.nodes["bert"]
        await nodes.leave("bert")
        goodbye = bert.members.swim._view.said
        assert goodbye.state is State.LEFT
        await until(lambda: nodes.view("anna")["bert"] == "left")
        await nodes.enter("bert")
        await until(lambda: all_well(nodes))
        await mallory.link("anna")
        link = mallory.transport.carrier.pool.links["anna"]
        send = link.send
        link.send = lambda kind, body: (send(kind, body), send(kind, body))
        anna = nodes.nodes["anna"]
        for number in range(1, 6):
            await mallory.say("anna", "members", b"no message")
            await until(lambda number=number: refused(anna, "membership", "malformed") == number)
        await mallory.gossip("anna", goodbye.raw)
        await mallory.say("anna", "members", b"no message")
        await until(lambda: refused(anna, "membership", "malformed") == 6)  # the goodbye came before
        assert all_well(nodes)
        await still_joins(nodes)
        assert refused(anna, "membership", "malformed") == 6


@in_loop
async def test_what_is_too_long_is_refused_at_each_layer(tmp_path):
    async with Nodes(tmp_path, *HONEST, "mallory", "dora") as nodes, Insider(nodes) as mallory:
        await entered(nodes)
        await mallory.link("anna")
        anna = nodes.nodes["anna"]
        await mallory.say("anna", "members", bytes(MAX_MESSAGE_BYTES + 1))
        await until(lambda: refused(anna, "membership", "malformed") == 1)
        await mallory.say("anna", "lists", bytes(LIST_BYTES + 1))
        await until(lambda: refused(anna, "lists", "malformed") == 1)
        link = mallory.transport.carrier.pool.links["anna"]
        link._write = lambda kind, body: link._transport.write(body)
        link.send(Kind.PARCEL, (Kind.PARCEL << 24 | PARCEL_BYTES + 1).to_bytes(4, "big"))
        await until(lambda: refused(anna, "transport", "malformed") == 1)
        await still_joins(nodes)


@in_loop
async def test_a_revoked_member_is_cut_off_and_what_it_said_is_void(tmp_path):
    async with Nodes(tmp_path, *HONEST, "mallory", "dora") as nodes, Insider(nodes) as mallory:
        await entered(nodes)
        await mallory.link(*HONEST)
        for name in HONEST:
            await mallory.gossip(name, mallory.signer.alive(1, [f"127.0.0.1:{mallory.port}"], "").raw)
        await until(lambda: all("mallory" in nodes.view(name) for name in HONEST))
        nodes.mesh.issuer.revoke("mallory", time.time())
        _, revocations = nodes.lists()
        (tmp_path / "bert" / "revocations.signed").write_bytes(revocations)
        await until(lambda: all("mallory" not in nodes.nodes[name].transport.links for name in HONEST))
        await until(lambda: all_well(nodes))
        for name in HONEST:
            node = nodes.nodes[name]
            await until(lambda node=node: refused(node, "transport", "cut_revoked") >= 1)
            async with Stranger(nodes.ports[name]) as again:
                code, reader, _ = await again.greet(mallory.membership, name)
                assert code == "revoked"
                await hung_up(reader)
            assert refused(node, "transport", "refused_revoked") >= 1
            assert not node.discovery.book.addresses("mallory")
        await still_joins(nodes)
