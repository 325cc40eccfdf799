"""Who has no certificate of the mesh, or keeps a connection open for nothing, or says where members are and lies."""

import asyncio
import contextlib
import ssl

import pytest
from mesh_intruders import Insider, Stranger, hung_up, refused, shown, strangers_issuer
from mesh_nodes import Nodes, in_loop, quick, until

from fedmesh.identity.certificates import new_key, root_certificate
from fedmesh.mesh.discovery import Book
from fedmesh.transport.peer_wire import Kind, head_of
from fedmesh.transport.tls import accepting, dialling

HONEST = ("anna", "bert", "cleo")


def all_well(nodes, names):
    return all(nodes.view(name) == dict.fromkeys(names, "alive") for name in names)


async def entered(nodes, **connections):
    settings = quick()
    settings.connections |= connections
    for name in HONEST:
        await nodes.enter(name, settings=settings)
    await until(lambda: all_well(nodes, HONEST))


async def still_joins(nodes, name="dora"):
    await nodes.enter(name)
    await until(lambda: all_well(nodes, list(nodes.nodes)), 60.0)


@in_loop
async def test_a_hundred_names_without_enrolment_are_not_let_in(tmp_path):
    """Certificates of another authority of the same name, and self-signed ones, for names that are members or none."""
    async with Nodes(tmp_path, *HONEST, "dora") as nodes:
        await entered(nodes)
        anna, names = nodes.nodes["anna"], ["bert", "anna", "mallory", *(f"sybil-{n}" for n in range(17))]
        issuer, issuer_key = strangers_issuer(nodes)
        own_key = new_key()
        own = root_certificate("home", own_key, nodes.mesh.begun)
        async with Stranger(nodes.ports["anna"]) as crowd:
            for name in names:
                for context in (shown(nodes, name, issuer, issuer_key), shown(nodes, name, own, own_key)):
                    with contextlib.suppress(OSError):
                        reader, _ = await crowd.dial(context)
                        await hung_up(reader)
        await until(lambda: refused(anna, "transport", "refused_authority") >= 2 * len(names))
        assert sorted(anna.transport.links) == ["bert", "cleo"]
        assert all_well(nodes, HONEST)
        await still_joins(nodes)


def client_hello():
    """How a TLS handshake begins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    return said.read()


async def dribbled(writer, data):
    """A byte now and then, for as long as anybody listens."""
    with contextlib.suppress(OSError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)


@in_loop
async def test_slow_loris_before_and_after_the_handshake(tmp_path):
    async with Nodes(tmp_path, *HONEST, "dora", "mallory") as nodes, contextlib.AsyncExitStack() as stack:
        quickly = {"handshake_s": 1.0, "hello_s": 1.0, "frame_s": 1.0, "strangers": 16, "per_address": 4}
        await entered(nodes, **quickly)
        anna, mallory = nodes.nodes["anna"], nodes.members["mallory"]
        listener = anna.transport.carrier.listener
        crowd = [await stack.enter_async_context(Stranger(nodes.ports["anna"])) for _ in range(8)]
        drips = []
        for each in crowd:  # 10 connections each, of 8 hosts: 4 of a host and 16 in all may wait
            for _ in range(10):
                _, writer = await each.dial()
                drips.append(asyncio.create_task(dribbled(writer, client_hello())))
        await until(lambda: refused(anna, "transport", "flood") >= 80 - 16)
        assert listener._strangers.total() <= 16
        assert max(listener._strangers.values(), default=0) <= 4
        await until(lambda: refused(anna, "transport", "slow") >= 1)  # a byte now and then is no handshake
        await asyncio.wait(drips)  # all of them were hung up on
        await until(lambda: not listener._strangers)

        before = refused(anna, "transport", "slow")
        tls = dialling(mallory.tls_path, mallory.root_path)
        for each in crowd[:2]:  # with a certificate, and no hello
            for _ in range(3):
                _, writer = await each.dial(tls)
                writer.write(head_of(Kind.HELLO, 200))
        await until(lambda: refused(anna, "transport", "slow") >= before + 6)

        before = refused(anna, "transport", "slow")
        code, reader, writer = await crowd[0].greet(mallory, "anna")
        assert code == ""
        writer.write(head_of(Kind.PARCEL, 1 << 16))
        drip = asyncio.create_task(dribbled(writer, bytes(1 << 16)))  # each byte in time, the frame never whole
        await hung_up(reader)
        drip.cancel()
        assert refused(anna, "transport", "slow") == before + 1
        assert all_well(nodes, HONEST)
        await still_joins(nodes)
        await until(lambda: not listener._strangers)


@contextlib.asynccontextmanager
async def impostor(context=None):
    """Listens, shows a certificate or says nothing at all, and counts what it is told."""
    heard, made = [], []

    async def accept(reader, writer):
        made.append(writer)
        with contextlib.suppress(OSError):
            heard.append(await reader.read(1 << 16))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()
        for writer in made:
            writer.transport.abort()


@pytest.mark.parametrize("who", ["another", "stranger", "silent"])
@in_loop
async def test_seeds_that_lie_are_not_believed_and_the_book_leads_to_the_mesh(tmp_path, who):
    """Its only seed leads to an impostor: another member, a stranger, or somebody who takes the call and is silent."""
    async with Nodes(tmp_path, *HONEST, "mallory") as nodes, contextlib.AsyncExitStack() as stack:
        await entered(nodes)
        await nodes.leave("cleo")
        for name in ("anna", "bert"):  # it left, and nobody looks for it
            await until(lambda name=name: nodes.view(name)["cleo"] == "left")
        context = None
        if who != "silent":
            shows = nodes.members["mallory"].tls_path
            if who == "stranger":
                shows = tmp_path / "stranger.pem"
                issuer, key = strangers_issuer(nodes)
                shown(nodes, "anna", issuer, key)
                next(tmp_path.glob("*.pem")).replace(shows)
            context = accepting(shows, nodes.members["anna"].root_path, required=False)
        port, heard = await stack.enter_async_context(impostor(context))
        nodes.ports["anna"], true = port, nodes.ports["anna"]
        cleo = await nodes.enter("cleo")
        nodes.ports["anna"] = true
        await until(lambda: all_well(nodes, HONEST), 60.0)
        assert not any(heard) or who == "silent"  # and that one heard the beginning of a handshake, which names nobody
        assert not any(b"cleo" in data or b"anna" in data for data in heard)
        if who != "silent":
            reason = "refused" if who == "another" else "unreached"
            await until(lambda: refused(cleo, "discovery", reason) >= 1)
        assert cleo.discovery.book.addresses("anna")[0] == ("127.0.0.1", true)


def _make_old(book):
    """Many others were met since, of whom nobody is there any more."""
    assert book.addresses("anna")
    for number in range(40):
        book.succeeded(f"gone-{number}", ("127.0.0.1", 1 + number))
    book.write(book.taken())


@in_loop
async def test_a_seed_that_conceals_all_others_does_not_hide_them_from_who_knew_them(tmp_path):
    """It is a member, so it is let in: whoever is in the book is looked for all the same."""
    async with Nodes(tmp_path, "mallory", *HONEST) as nodes, Insider(nodes) as mallory:
        nodes.ports["mallory"] = mallory.port
        nodes.names = ["anna", "bert", "cleo", "mallory"]
        await entered(nodes)
        await nodes.leave("cleo")
        for name in ("anna", "bert"):
            await until(lambda name=name: nodes.view(name)["cleo"] == "left")
        _make_old(Book(nodes.state("cleo") / "addresses"))
        nodes.names = ["mallory", "anna", "bert", "cleo"]  # from now on it is everybody's only seed
        cleo = await nodes.enter("cleo")
        await mallory.link("cleo")
        await mallory.gossip("cleo", mallory.signer.alive(1, [f"127.0.0.1:{mallory.port}"], "").raw)
        await until(lambda: "mallory" in nodes.view("cleo"))
        seen = dict.fromkeys([*HONEST, "mallory"], "alive")
        await until(lambda: {**nodes.view("cleo"), "mallory": "alive"} == seen, 30.0)
        await until(lambda: {"anna", "bert"} <= set(cleo.transport.links))
