"""Who is at an address: real TLS on loopback, with certificates of the mesh, of another one, and none."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from meshes import Mesh

from fedmesh.errors import IdentityError, PeerError
from fedmesh.identity import Membership
from fedmesh.mesh.discovery import Address, identify
from fedmesh.transport.tls import accepting


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path / "home", begun=time.time() - 3_600)


@contextlib.asynccontextmanager
async def listening(membership: Membership, host: str = "127.0.0.1") -> AsyncIterator[tuple[Address, list[object]]]:
    shown: list[object] = []
    open_: list[asyncio.StreamWriter] = []

    async def greeted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("peercert"))
        open_.append(writer)
        writer.close()

    context = accepting(membership.tls_path, membership.root_path, required=True)
    server = await asyncio.start_server(greeted, host, 0, ssl=context)
    try:
        yield (host, server.sockets[0].getsockname()[1]), shown
    finally:
        server.close()
        await asyncio.sleep(0.05)  # who is greeted now
        for writer in open_:  # whoever was hung up on is let go of
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_name_is_that_of_the_certificate(mesh: Mesh, host: str) -> None:
    anna, bert = mesh.enrol("anna"), mesh.enrol("bert")

    async def scenario() -> None:
        async with listening(bert, host) as (address, _):
            assert await identify(address, anna, timeout_s=60) == "bert"
            assert await identify(address, anna, expected="bert", timeout_s=60) == "bert"
            with pytest.raises(IdentityError) as wrong:
                await identify(address, anna, expected="cleo", timeout_s=60)
            assert wrong.value.code == "peer"
            with pytest.raises(IdentityError):
                await identify(address, bert, timeout_s=60)  # ourselves

    asyncio.run(scenario())


def test_another_mesh_is_refused_and_learns_nothing_of_us(mesh: Mesh, tmp_path: Path) -> None:
    other = Mesh(tmp_path / "other", begun=time.time() - 3_600)
    anna, mallory = mesh.enrol("anna"), other.enrol("mallory")

    async def scenario() -> None:
        async with listening(mallory) as (address, shown):
            with pytest.raises(PeerError):
                await identify(address, anna, timeout_s=60)
            await asyncio.sleep(0.05)
            assert shown == []

    asyncio.run(scenario())


def test_a_revoked_member_is_refused(mesh: Mesh) -> None:
    anna, bert = mesh.enrol("anna"), mesh.enrol("bert")
    mesh.issuer.revoke("bert", time.time())
    anna.accept(time.time(), revocations=mesh.issuer.lists(time.time())[1])

    async def scenario() -> None:
        async with listening(bert) as (address, _):
            with pytest.raises(IdentityError) as refused:
                await identify(address, anna, timeout_s=60)
            assert refused.value.code == "revoked"

    asyncio.run(scenario())


def test_who_says_nothing_is_not_waited_for_long(mesh: Mesh) -> None:
    anna = mesh.enrol("anna")

    async def scenario() -> None:
        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await asyncio.Event().wait()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = ("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(PeerError, match="does not answer"):
            await identify(address, anna, timeout_s=0.2)
        server.close()
        with pytest.raises(PeerError):
            await identify(address, anna, timeout_s=0.2)

    asyncio.run(scenario())
