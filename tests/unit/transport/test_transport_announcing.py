import asyncio

import pytest

from fedmesh.errors import DeliveryError
from fedmesh.transport.announcing import Announcer, Hearer, published
from fedmesh.transport.memory import ManualTimers, MemoryBroker


def test_only_the_newest_value_counts():
    async def main():
        announcer = Announcer()
        first, second = announcer.put("model", b"1"), announcer.put("model", b"2")
        assert announcer.next() == ("model", b"2")
        assert announcer.next() is None
        announcer.settled("model", b"1")  # the broker has what was replaced
        assert not first.done()
        announcer.settled("model", b"2")
        assert first.result() == second.result() == ""

    asyncio.run(main())


def test_everything_is_said_on_every_connection():
    async def main():
        announcer = Announcer()
        for what, data in (("model", b"1"), ("lists", b"2"), ("lists", b"")):
            announcer.put(what, data)
            announcer.settled(what, data)
        announcer.again()
        assert {announcer.next(), announcer.next(), announcer.next()} == {("model", b"1"), ("lists", b""), None}

    asyncio.run(main())


def test_a_refusal_is_told_once_and_tried_again_on_the_next_connection():
    async def main():
        announcer = Announcer()
        outcome = announcer.put("model", b"1")
        announcer.settled(*announcer.next(), "forbidden")
        with pytest.raises(DeliveryError, match="forbidden"):
            await published("model", outcome)
        announcer.again()
        assert announcer.next() == ("model", b"1")

    asyncio.run(main())


def test_what_is_heard_is_bounded_and_told_once():
    hearer = Hearer()
    assert hearer.heard("c", "model", b"") == "known"
    assert hearer.heard("c", "model", b"1") == "new"
    assert hearer.heard("c", "model", b"1") == "known"
    assert hearer.heard("c", "weather", b"1") == "refused"
    assert hearer.heard("c", "model", bytes(4097)) == "refused"
    assert hearer.announced == {("c", "model"): b"1"}
    said = [hearer.heard(f"c{number}", "model", b"1") for number in range(300)]
    assert (said.count("new"), said.count("refused")) == (255, 45)
    assert hearer.heard("c", "model", b"2") == "new"  # who is known may change
    hearer.forget("c")
    assert hearer.heard("d", "model", b"1") == "new"


def test_who_was_cut_off_hears_the_newest_when_it_is_back():
    async def main():
        timers = ManualTimers()
        broker = MemoryBroker(timers=timers)
        coordinator, device = broker.join("coordinator", coordinator=True), broker.join("device")
        heard = []
        device.on_announcement = lambda *announcement: heard.append(announcement)
        broker.cut = {"device"}
        for data in (b"1", b"2"):
            announcing = asyncio.create_task(coordinator.announce("model", data))
            await timers.run(0.1)
            await announcing
        broker.cut = {"coordinator"}
        announcing = asyncio.create_task(coordinator.announce("model", b"3"))
        await timers.run(5)
        assert heard == [("coordinator", "model", b"2")]
        assert not announcing.done()
        broker.cut = set()
        await timers.run(5)
        await announcing
        assert heard[1:] == [("coordinator", "model", b"3")]
        broker.inject("coordinator", "device", b"")
        device.heard("coordinator", "model", bytes(5000))
        assert device.counts["announcement"] == 1

    asyncio.run(main())
