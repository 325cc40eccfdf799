"""A member's certificate and lists, kept fresh while it runs: renewed when due, fetched now and then."""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from fedmesh.configuration.values import Address
from fedmesh.errors import FedMeshError
from fedmesh.events import CertificateRenewed, EventSink, ignore
from fedmesh.identity import Membership

__all__ = ["keep_fresh"]

EVERY_S = 3_600.0
AFTER_TROUBLE_S = 300.0

_log = logging.getLogger(__name__)


async def keep_fresh(
    membership: Membership,
    address: Address | None,
    *,
    changed: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.time,
    chance: random.Random | None = None,
    events: EventSink = ignore,
) -> None:
    """Never returns.

    Args:
        membership: whose.
        address: the issuer's; None: what the folder remembers of the enrolment. Without one, nothing is done.
        changed: called when a list or the certificate is another.
        clock: Unix seconds.
        chance: jitter, so that a fleet that was switched on together does not come back together.
        events: told of a new certificate.
    """
    from fedmesh.transport.issuing import fetch_lists, renew

    chance = chance or random.Random()  # noqa: S311 - jitter
    issuer = address or (Address.parse(membership.address) if membership.address else None)
    while issuer is not None:
        wait_s, where = EVERY_S, (issuer.host, issuer.port)
        try:
            if membership.due(clock()):
                await renew(membership, where, clock=clock)
                events(CertificateRenewed())
                changed()
            elif await fetch_lists(membership, where, clock=clock):
                changed()
        except FedMeshError as error:
            _log.warning("the certificate authority at %s: %s", issuer, error)
            wait_s = AFTER_TROUBLE_S
        await asyncio.sleep(wait_s * chance.uniform(0.5, 1.0))
    await asyncio.Event().wait()
