import asyncio
import random

import pytest

from fedmesh.errors import ConfigError, DeliveryError, IdentityError, PeerError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Done, Ident, Whole, encode
from fedmesh.transport.limits import MAX_CHUNK_BYTES, Limits
from fedmesh.transport.memory import Faults, ManualTimers, MemoryBroker
from fedmesh.transport.parcels import pack
from fedmesh.transport.spool import Spool

LARGE = random.Random(2).randbytes(30_000)
LIMITS = Limits(chunk_bytes=1000, message_bytes=100_000, clock_skew_s=0.0)


def manual(test):
    """Runs a coroutine with a broker whose time the test moves."""

    def run(tmp_path):
        async def main():
            timers = ManualTimers()
            async with asyncio.timeout(240):
                await test(MemoryBroker(timers=timers), timers, tmp_path)

        asyncio.run(main())

    return run


async def take(transport, count):
    messages = transport.receive()
    return [await anext(messages) for _ in range(count)]


@manual
async def test_messages_over_a_bad_network_arrive_once(broker, timers, path):
    broker.faults = Faults(loss=0.2, duplication=0.2, delay_s=1.0)
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)
    sends = [asyncio.create_task(a.send("b", data)) for data in (b"", b"one", LARGE)]
    await timers.run(300)
    await asyncio.gather(*sends)
    assert sorted(await take(b, 3)) == sorted([("a", b""), ("a", b"one"), ("a", LARGE)])


@manual
async def test_an_answer_goes_with_a_reply_that_is_posted_at_once(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)

    async def echo():
        async for peer, data in b.receive():
            await b.post(peer, data)

    echoing = asyncio.create_task(echo())
    replies = a.receive()
    for _ in range(10):
        await a.post("b", b"data")
        await timers.run(0.1)
        assert await anext(replies) == ("b", b"data")
    assert broker.carried <= 31  # three parcels: the request, the reply with its answer, and the answer to that
    echoing.cancel()


@manual
async def test_an_answer_goes_with_the_reply_whatever_was_read_before_it(broker, timers, path):
    b = broker.join("b", limits=LIMITS)

    async def echo():
        async for peer, data in b.receive():
            await b.post(peer, data)

    echoing = asyncio.create_task(echo())
    await timers.run(0.1)
    for sequence in range(1, 4):
        broker.inject("a", "b", pack([encode(Done(Ident(1, sequence), bytes(32)))]))  # both in one turn of the loop
        expires_ms, digest = int(timers.now() + 60) * 1000, Content.of(b"data", MAX_CHUNK_BYTES).digest
        said = Whole(Ident(1, sequence), sequence, expires_ms, digest, b"data")
        broker.inject("a", "b", pack([encode(said)]))
        await timers.run(0.1)
        assert broker.carried == sequence
    echoing.cancel()


@manual
async def test_a_sender_waits_for_a_peer_that_is_not_there(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    sending = asyncio.create_task(a.send("b", LARGE))
    await timers.run(600)
    assert not sending.done()
    assert a.present == set()
    b = broker.join("b", limits=LIMITS)
    await timers.run(1)
    await sending
    assert a.present == {"b"}
    assert await take(b, 1) == [("a", LARGE)]


@manual
async def test_a_deadline_ends_the_wait(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    sending = asyncio.create_task(a.send("b", b"late", expires_in_s=10))
    await timers.run(9.9)
    assert not sending.done()
    await timers.run(0.2)
    with pytest.raises(DeliveryError, match="expired") as failed:
        await sending
    assert failed.value.peer == "b"


@manual
async def test_back_pressure_reaches_the_application(broker, timers, path):
    tight = Limits(chunk_bytes=1000, message_bytes=30_000, peer_bytes=60_000, outgoing_bytes=60_000, clock_skew_s=0.0)
    a, b = broker.join("a", limits=tight), broker.join("b", limits=tight)
    posted = []

    async def post():
        for number in range(8):
            await a.post("b", bytes([number]) * 30_000)
            posted.append(number)

    posting = asyncio.create_task(post())
    while len(posted) < 4:  # long messages are hashed in a thread
        await asyncio.sleep(0.001)
        await timers.run(1)
    await timers.run(100)
    assert posted == [0, 1, 2, 3]  # two there and not taken, two here
    messages = b.receive()
    arrived = []
    for _ in range(8):
        arrived.append((await anext(messages))[1][0])
        await timers.run(100)
    await posting
    assert sorted(arrived) == list(range(8))


@manual
async def test_a_crash_loses_nothing_that_was_in_a_spool(broker, timers, path):
    a = broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1))
    broker.cut.add("a")
    posted = asyncio.create_task(a.post("b", LARGE))
    while not posted.done():
        await asyncio.sleep(0.01)  # the disk is not on the test's time
    a.crash()
    broker.cut.clear()
    b = broker.join("b", limits=LIMITS)
    broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=2))
    await timers.run(1)
    assert await take(b, 1) == [("a", LARGE)]


@manual
async def test_a_message_in_hand_at_a_crash_comes_again_and_one_before_it_does_not(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=1))
    for data in (b"one", b"two"):
        sending = asyncio.create_task(a.send("b", data))
        await timers.run(1)
        await sending
    assert [data for _, data in await take(b, 2)] == [b"one", b"two"]
    b.crash()
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=2))
    assert [data for _, data in await take(b, 1)] == [b"two"]


@manual
async def test_a_message_that_is_done_with_does_not_come_again(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=1))
    for data in (b"one", b"two"):
        sending = asyncio.create_task(a.send("b", data))
        await timers.run(1)
        await sending
    assert await take(b, 1) == [("a", b"one")]
    b.done()
    await b.aclose()
    assert b.channel("main").take() is None
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=2))
    assert await take(b, 1) == [("a", b"two")]


@manual
async def test_a_post_that_is_cancelled_while_the_disk_is_written_is_sent_all_the_same(broker, timers, path):
    a = broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1))
    b = broker.join("b", limits=LIMITS)
    posting = asyncio.create_task(a.post("b", b"data"))
    while not list((path / "a" / "out").iterdir()) and not posting.done():
        await asyncio.sleep(0)
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    while not b.channel("main").take():
        await asyncio.sleep(0.001)
        await timers.run(0.01)
    assert list((path / "a" / "out").iterdir()) == []


@manual
async def test_closing_ends_those_who_wait(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    sending = asyncio.create_task(a.send("b", b"data"))
    reading = asyncio.create_task(take(a, 1))
    await timers.run(1)
    await a.aclose()
    await a.aclose()
    with pytest.raises(DeliveryError, match="closed"):
        await sending
    with pytest.raises((StopAsyncIteration, RuntimeError)):
        await reading
    with pytest.raises(DeliveryError, match="closed"):
        await a.send("b", b"more")


@manual
async def test_presence_is_told(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    seen = []
    a.on_presence = lambda peer, there: seen.append((peer, there))
    b = broker.join("b", limits=LIMITS)
    await b.aclose()
    broker.join("c", limits=LIMITS).crash()
    assert seen == [("b", True), ("b", False), ("c", True), ("c", False)]


@manual
async def test_what_cannot_be_sent_is_refused_at_once(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    with pytest.raises(IdentityError, match="is no name"):
        await a.send("b/#", b"data")
    with pytest.raises(PeerError, match="the limit is 100000"):
        await a.send("b", bytes(100_001))
    with pytest.raises(ConfigError, match="can be asked for"):
        await a.send("b", b"data", expires_in_s=1e9)


@manual
async def test_a_cancelled_send_does_not_take_the_message_back(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)
    broker.cut.add("b")
    sending = asyncio.create_task(a.send("b", b"data"))
    await timers.run(1)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    broker.cut.clear()
    await timers.run(10)
    assert await take(b, 1) == [("a", b"data")]
