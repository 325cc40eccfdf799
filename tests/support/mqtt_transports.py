"""Transports over a real broker, opened, read and waited for with patience; what they send, long and short."""

import asyncio
import random

from fedmesh.transport.limits import Limits
from fedmesh.transport.mqtt import MqttTransport

LARGE = random.Random(4).randbytes(50_000_000)
MEDIUM = LARGE[:8_000_000]
SHORT = LARGE[:1024]
QUICK = Limits(retry_s=0.5, retry_max_s=2.0)
WAIT_S = 120.0


def join(broker, name, **changes):
    told = {key: changes.pop(key) for key in ("limits", "spool", "spool_bytes") if key in changes}
    return MqttTransport.open(broker.options(name, **changes), wait_s=WAIT_S, **{"limits": QUICK, **told})


async def next_from(transport):
    async with asyncio.timeout(WAIT_S):
        return await anext(transport.receive())


async def until(true):
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.01)
