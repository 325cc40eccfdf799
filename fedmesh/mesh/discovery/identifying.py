"""Who is at an address: a TLS handshake, and the name in the certificate that comes. Nothing else is sent.

A stranger learns nothing of us by it: in TLS 1.3 our certificate follows theirs, and only if theirs is of our root.
"""

import asyncio
import time
from collections.abc import Callable

from fedmesh.errors import IdentityError
from fedmesh.identity import Membership
from fedmesh.mesh.discovery.addresses import Address
from fedmesh.transport.tls import connected, dialling, peer_leaf
from fedmesh.types import PeerId

__all__ = ["identify"]


async def identify(
    address: Address,
    membership: Membership,
    *,
    expected: PeerId = "",
    timeout_s: float = 5.0,
    clock: Callable[[], float] = time.time,
) -> PeerId:
    """The name of the member that answers at `address`.

    Args:
        address: numeric, or a name that the system resolves now.
        membership: ours: whom it lets in, by its lists.
        expected: who has to be there; empty: whoever it is.
        clock: seconds since 1970, for certificates.

    Raises:
        IdentityError: it is not let in, another than expected, or ourselves.
        PeerError: nobody answers, or with no certificate of our mesh.
    """
    context = await asyncio.to_thread(dialling, membership.tls_path, membership.root_path)
    _, writer = await connected(*address, context, timeout_s=timeout_s)
    try:
        leaf = peer_leaf(writer)
    finally:
        writer.transport.abort()
    if leaf is None:
        raise IdentityError("a peer shows a certificate; none came", code="name")
    name = membership.check([leaf], expected=expected or None, clock=clock(), server=True).name.id
    if name == membership.name.id:
        raise IdentityError("what answers is called as we are", code="peer")
    return name
