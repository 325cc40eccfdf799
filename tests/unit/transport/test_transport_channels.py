"""What several readers of one transport may rely on."""

import asyncio
from dataclasses import replace

import pytest
from transport_pair import START_S, Pair, frames_of

from fedmesh.errors import DeliveryError, PeerError
from fedmesh.transport.accounts import Account
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Ident, Open, Whole, encode
from fedmesh.transport.limits import CHANNELS, Limits
from fedmesh.transport.memory import ManualTimers, MemoryBroker
from fedmesh.transport.parcels import pack
from fedmesh.transport.spool import Spool

LIMITS = Limits(chunk_bytes=1000, message_bytes=100_000, clock_skew_s=0.0)
LONG = bytes(5000)


def manual(test):
    """Runs a coroutine with a broker whose time the test moves."""

    def run(tmp_path):
        async def main():
            timers = ManualTimers()
            async with asyncio.timeout(240):
                await test(MemoryBroker(timers=timers), timers, tmp_path)

        asyncio.run(main())

    return run


async def posted(timers, channel, *messages):
    receipts = [await channel.post("b", data) for data in messages]
    await timers.run(1)
    await asyncio.gather(*[receipt.delivered() for receipt in receipts])


@manual
async def test_a_message_is_done_when_its_own_reader_says_so(broker, timers, path):
    a = broker.join("a", limits=LIMITS)
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=1))
    for name in ("main", "fleet"):
        await posted(timers, a.channel(name), name.encode(), LONG + name.encode())
    main, fleet = b.receive(), b.channel("fleet").receive()
    assert await anext(fleet) == ("a", b"fleet")  # in hand until the next is asked for
    assert [(await anext(main))[1] for _ in range(2)] == [b"main", LONG + b"main"]
    b.done()
    b.crash()
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=2))
    assert b.channel("main").take() is None
    fleet = b.channel("fleet").receive()
    assert [await anext(fleet) for _ in range(2)] == [("a", b"fleet"), ("a", LONG + b"fleet")]


@manual
async def test_what_waits_to_be_sent_keeps_its_channel_over_a_crash(broker, timers, path):
    a = broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1))
    for data in (b"short", LONG):
        await a.channel("fleet").post("b", data)
    a.crash()
    b = broker.join("b", limits=LIMITS)
    broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1))
    await timers.run(5)
    fleet = b.channel("fleet").receive()
    assert {(await anext(fleet))[1] for _ in range(2)} == {b"short", LONG}


@manual
async def test_what_is_asked_for_again_by_who_misses_it_is_never_on_the_disk(broker, timers, path):
    a = broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1, max_bytes=1000))
    b = broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=1))
    before = written(path)
    sending = asyncio.gather(*[a.channel("files").send("b", data) for data in (b"short", LONG)])
    while not sending.done():
        await asyncio.sleep(0.001)
        await timers.run(0.1)
    assert written(path) == before
    files = b.channel("files").receive()
    assert {(await anext(files))[1] for _ in range(2)} == {b"short", LONG}
    b.channel("files").done()
    assert written(path) == before
    assert b._endpoint._receiver.held_bytes == 0
    fleet = asyncio.create_task(b.channel("fleet").send("a", b"kept"))
    while not fleet.done():
        await asyncio.sleep(0.001)
        await timers.run(0.1)
    assert written(path) != before


def written(path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


@manual
async def test_a_full_channel_leaves_room_for_the_others_long_and_short(broker, timers, path):
    tight = Limits(
        chunk_bytes=1000, message_bytes=8000, peer_bytes=64_000, incoming_bytes=64_000, transfers=2, clock_skew_s=0.0
    )
    a, b = broker.join("a", limits=tight), broker.join("b", limits=tight)
    filling = [asyncio.create_task(a.channel("fleet").send("b", bytes(8000))) for _ in range(20)]
    await timers.run(60)
    assert b.counts["busy"] > 0
    assert sum(task.done() for task in filling) == 8  # all of the bound
    for data in (b"short", bytes(8000)):
        await posted(timers, a, data)
        assert await anext(b.receive()) == ("a", data)
        b.done()
    fleet = b.channel("fleet").receive()
    taken = 0
    while taken < 20:
        await timers.run(1)
        assert len((await anext(fleet))[1]) == 8000
        taken += 1
    await timers.run(1)
    await asyncio.gather(*filling)


@manual
async def test_who_is_shunned_has_nothing_left_here(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS, spool=Spool(path / "b", incarnation=1))
    c = broker.join("c", limits=LIMITS)
    await posted(timers, a.channel("fleet"), b"one", b"two")
    await posted(timers, c.channel("fleet"), b"three")
    broker.inject("a", "b", pack([encode(_opened(b"begun" * 1000))]))
    assert b._endpoint._receiver.held_bytes > 5000
    b.shun("a")
    assert b.counts["shunned"] == 2
    assert b._endpoint._receiver.held_bytes == len(b"three")
    assert await anext(b.channel("fleet").receive()) == ("c", b"three")
    assert [path.name for path in (path / "b" / "in" / "a").iterdir()] == ["record.cbor"]
    with pytest.raises(DeliveryError, match="a is shunned"):
        await b.post("a", b"secret")
    sending = asyncio.create_task(a.send("b", b"more", expires_in_s=5))
    await timers.run(10)
    with pytest.raises(DeliveryError, match="expired"):
        await sending
    assert b.counts["shunned"] > 2


@manual
async def test_a_channel_of_a_later_version_is_refused_for_good(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)
    sending = asyncio.create_task(a.send("b", b"data", channel=len(CHANNELS)))
    await timers.run(1)
    with pytest.raises(DeliveryError, match="b refused it: channel"):
        await sending
    assert b.counts["channel"] == 1


@manual
async def test_a_channel_that_is_closed_ends_its_reader_alone(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)
    files = b.channel("files")
    reading = asyncio.create_task(_all(files))
    await timers.run(0)
    await files.aclose()
    assert await reading == []
    await posted(timers, a, b"data")
    assert await anext(b.receive()) == ("a", b"data")


@manual
async def test_a_full_spool_makes_a_sender_wait(broker, timers, path):
    a = broker.join("a", limits=LIMITS, spool=Spool(path / "a", incarnation=1, max_bytes=10_000))
    posting = [asyncio.create_task(a.post("b", bytes(4000))) for _ in range(4)]
    while sum(task.done() for task in posting) < 2:  # the disk is not on the test's time
        await asyncio.sleep(0.001)
        await timers.run(0)
    for _ in range(200):
        await asyncio.sleep(0.001)
        await timers.run(0)
    assert sum(task.done() for task in posting) == 2
    b = broker.join("b", limits=LIMITS)
    while not all(task.done() for task in posting):
        await asyncio.sleep(0.001)
        await timers.run(0.1)
    await timers.run(1)
    assert [len((await anext(b.receive()))[1]) for _ in range(4)] == [4000] * 4
    with pytest.raises(PeerError, match="raise its max_bytes"):
        await a.post("b", bytes(10_000))


def test_a_message_that_waits_for_room_holds_up_its_senders_4096th_later_one():
    pair = Pair()
    now_ms, digest = int(START_S * 1000), Content.of(b"x", 100).digest
    end = pair.ends["b"]

    def give(sequence):
        frame = Whole(Ident(now_ms, sequence), 1, now_ms + 100_000, digest, b"x")
        (delivered,) = end.handle("a", pack([encode(frame)]), pair.now) or [None]
        if delivered is not None:
            end.taken(delivered)
        return delivered is not None

    assert all(give(sequence) for sequence in range(2, 4098))  # message 1 waits: its sender's floor
    assert not give(4098)
    assert end.counts["busy"] == 1


def opened(sequence, channel, size=1000):
    content = Content.of(bytes(size), 100)
    now_ms = int(START_S * 1000)
    return Open(Ident(now_ms, sequence), 1, now_ms + 100_000, 1, size, 100, content.hashes, channel)


def test_long_messages_of_one_channel_that_do_not_come_leave_slots_to_the_others():
    pair = Pair(replace(Pair().limits, transfers=2))
    pair.give("a", opened(1, 1), opened(2, 1), opened(3, 1))
    assert pair.refused == {"busy": 1}
    pair.give("a", opened(4, 0), opened(5, 0))
    assert pair.refused == {"busy": 1}
    assert pair.ends["b"]._receiver._held.by_channel == {0: 2000, 1: 2000}


def test_room_that_came_free_is_offered_to_its_own_channel_first():
    pair = Pair(replace(Pair().limits, peer_bytes=10_000, peer_messages=8))
    end = pair.ends["b"]
    content = Content.of(b"x", 100)
    now_ms = int(START_S * 1000)

    def give(sequence, channel):
        frame = Whole(Ident(now_ms, sequence), 1, now_ms + 100_000, content.digest, b"x", channel)
        return end.handle("a", pack([encode(frame)]), pair.now)

    (first,) = give(1, 0)
    for sequence in range(2, 30):
        give(sequence, 1)
    assert give(30, 0) == []
    assert end.counts["busy"] == 22
    pair.poll("b")  # the answers so far
    pair.wires["b"].clear()
    end.taken(first)
    again = [frame.ident.sequence for frame in frames_of(end.poll(pair.now).data)]
    assert again[0] == 30
    assert len(again) == 4


def test_what_is_taken_up_after_a_crash_counts_for_its_channel(tmp_path):
    pair = Pair(spools=(None, Spool(tmp_path / "b", incarnation=1)))
    now_ms, digest = int(START_S * 1000), Content.of(b"x", 100).digest
    for sequence, channel in ((7, 1), (8, 0), (9, 2)):
        pair.give("a", Whole(Ident(now_ms, sequence), 1, now_ms + 100_000, digest, b"x", channel))
    pair.give("a", opened(1, 1), opened(2, 2))
    pair.spools["b"].close()
    pair.spools["b"] = Spool(tmp_path / "b", incarnation=1)
    pair.restart("b")
    assert pair.ends["b"]._receiver._held.by_channel == {0: 1, 1: 1001}  # and nothing of what is not kept
    assert [message.channel for message in pair.delivered["b"]] == [1, 0, 2, 1, 0]


def test_an_eighth_of_a_bound_is_a_channels_own():
    account = Account()
    account.add(90, 0)
    assert account.has_room(10, 0, 100)
    assert not account.has_room(11, 0, 100)
    account.add(10, 0)
    assert account.has_room(12, 1, 100)
    assert not account.has_room(13, 1, 100)
    account.add(12, 1)
    assert not account.has_room(1, 1, 100)
    account.add(-100, 0)
    assert account.total == 12
    assert account.has_room(88, 1, 100)


def test_the_channel_is_in_the_frame():
    ident, digest = (7, 1), bytes(32)
    assert encode(Whole(ident, 1, 2, digest, b"x", 2))[-2:] == b"x\x02"
    assert encode(Open(ident, 1, 2, 1, 11, 10, bytes(64), 1))[-2:] == b"\0\x01"


def _opened(data):
    content = Content.of(data, 1000)
    now_ms = int(1e12)
    return Open(Ident(now_ms, 99), 1, now_ms + 100_000, 1, content.size, content.chunk_bytes, content.hashes)


async def _all(channel):
    return [data async for _, data in channel.receive()]


@manual
async def test_a_reader_whose_transport_is_closed_is_not_given_what_it_has_in_hand_again(broker, timers, path):
    a, b = broker.join("a", limits=LIMITS), broker.join("b", limits=LIMITS)
    await posted(timers, a.channel("main"), b"once")
    reader = b.receive()
    assert await anext(reader) == ("a", b"once")
    await b.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(reader)
