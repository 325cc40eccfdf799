"""A device's certificate and lists, kept fresh at a real issuer on loopback."""

import asyncio
import random
import time
from contextlib import suppress

from device_fleet import enrolled, until
from meshes import Mesh

from fedmesh import events
from fedmesh.configuration.values import Address
from fedmesh.fleet import freshness
from fedmesh.transport.issuing import IssuerServer


def test_lists_are_fetched_and_a_certificate_is_renewed_when_it_is_due(tmp_path):
    mesh = Mesh(tmp_path, begun=time.time() - 60)
    membership = enrolled(mesh, "device-1")
    first = membership.leaf
    late = [time.time()]
    told, changes = [], []

    async def main():
        async def fresh(**options):
            server = IssuerServer(mesh.issuer, mesh.ca, clock=lambda: late[0])
            host, port = await server.start("127.0.0.1", 0)
            job = asyncio.ensure_future(
                freshness.keep_fresh(
                    membership,
                    Address(host, port),
                    changed=lambda: changes.append(1),
                    clock=lambda: late[0],
                    chance=random.Random(1),
                    events=told.append,
                )
            )
            with suppress(asyncio.CancelledError):
                await until(options["until"])
                job.cancel()
                await job
            await server.aclose()

        enrolled(mesh, "device-2")
        await fresh(until=lambda: "device-2" in membership.roster.keys)
        assert changes == [1]
        assert told == []
        late[0] = first.not_valid_after_utc.timestamp() - 60
        await fresh(until=lambda: told)

    asyncio.run(main())
    assert told == [events.CertificateRenewed()]
    assert membership.leaf != first
    assert len(changes) == 2
