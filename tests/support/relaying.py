"""Peers of whom some cannot reach each other: everybody on everybody's list, and addresses that a test takes away."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

from peer_mesh import PeerMesh, until

from fedmesh.transport.limits import Limits
from fedmesh.transport.peers import PeerTransport
from fedmesh.types import PeerId

LIMITS = Limits(message_bytes=4 << 20, retry_s=0.5)


def acquainted(folder: Path, *names: PeerId, limits: Limits = LIMITS) -> PeerMesh:
    """A mesh whose members have a roster with all of them."""
    mesh = PeerMesh(folder, limits=limits)
    for name in names:
        mesh.member(name)
    tell_lists(mesh)
    return mesh


def tell_lists(mesh: PeerMesh, *names: PeerId) -> None:
    """Gives members the newest lists: `names`, or all."""
    roster, revocations = mesh.mesh.issuer.lists(time.time())
    for name in names or mesh.members:
        mesh.members[name].accept(time.time(), roster=roster, revocations=revocations)


async def spokes(mesh: PeerMesh, entered: Any, hub: PeerId, *names: PeerId, **options: Any) -> list[PeerTransport]:
    """Members that nobody can dial, each connected with `hub`, whom they can."""
    found = []
    for name in names:
        spoke = await entered(mesh.open(name, listens=False, keep=frozenset({hub}), **options))
        await spoke.connect(hub, wait_s=120)
        found.append(spoke)
    await until(lambda: all(hub in spoke.links for spoke in found))
    return found


async def turned_away(caller: PeerTransport, peer: PeerId, why: str) -> None:
    """Returns when `caller` was told `why` there is no way to `peer`."""
    calling = asyncio.create_task(caller.connect(peer, wait_s=3_600))
    await until(lambda: why in caller.carrier.dialler.trouble.get(peer, "\n"))
    assert not calling.done()
    calling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await calling
