"""Files over the transport in memory: what is served, what is not, and what a bad network or peer does."""

import asyncio
import hashlib
import random
import threading

import pytest

from fedmesh.errors import ConfigError, DecodeError, FileError, PeerError
from fedmesh.transport.file_messages import PIECE_BYTES, Answer, Request, is_file_name
from fedmesh.transport.file_server import FileServer, routed
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.frames import Ident
from fedmesh.transport.incoming import Delivered
from fedmesh.transport.limits import Limits
from fedmesh.transport.memory import Faults, MemoryBroker
from fedmesh.wire import dumps

LARGE = random.Random(3).randbytes(5 * PIECE_BYTES + 77)
SHELF = {"metadata/1.root.json": b"{}", "chunks/abc": LARGE, "empty": b""}
WHOLE = b"0123456789"
QUICK = Limits(retry_s=0.2, retry_max_s=1.0)


class Shelf:
    """Files that a test may change while they are served."""

    def __init__(self, files=SHELF):
        self.files, self.reads = dict(files), 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, name, *, max_bytes):
        self.reads += 1
        assert self.gate.wait(120)
        if isinstance(self.files[name], Exception):
            raise self.files[name]
        return self.files[name]


def served(test, *, faults=None, **options):
    """Runs `test(files, shelf, server, device, coordinator)`."""

    async def main():
        broker = MemoryBroker(faults=faults)
        coordinator = broker.join("coordinator", limits=QUICK, coordinator=True)
        device = broker.join("device", limits=QUICK)
        shelf = Shelf()
        async with (
            asyncio.timeout(240),
            FileServer(coordinator.channel("files"), shelf, **options) as server,
            RemoteFiles(device.channel("files"), "coordinator", retry_s=1.0, chance=random.Random(1)) as files,
        ):
            await test(files, shelf, server, device, coordinator)
        await asyncio.gather(device.aclose(), coordinator.aclose())

    asyncio.run(main())


def test_short_long_and_empty_files():
    async def test(files, shelf, server, *_):
        for name, data in SHELF.items():
            assert await files.fetch(name, max_bytes=len(LARGE)) == data
        assert shelf.reads == 3  # a long one is read once for all its pieces
        assert server.counts == {"served": 8}

    served(test)


def test_a_bad_network_costs_time_and_nothing_else():
    async def test(files, *_):
        got = await asyncio.gather(*[files.fetch("chunks/abc", max_bytes=len(LARGE)) for _ in range(3)])
        assert got == [LARGE] * 3

    served(test, faults=Faults(loss=0.05, duplication=0.1, delay_s=0.02))


def test_a_download_is_resumed_where_it_was():
    async def test(files, shelf, server, *_):
        assert await files.fetch("chunks/abc", max_bytes=len(LARGE), offset=len(LARGE) - 10) == LARGE[-10:]
        assert await files.fetch("chunks/abc", max_bytes=len(LARGE), offset=len(LARGE)) == b""
        assert server.counts == {"served": 2}
        await refused(files.fetch("chunks/abc", max_bytes=len(LARGE), offset=len(LARGE) + 1), "range")

    served(test)


async def refused(fetching, code):
    with pytest.raises(FileError) as error:
        await fetching
    assert error.value.code == code


def test_what_is_not_to_be_had_is_said_by_a_code():
    async def test(files, shelf, server, *_):
        shelf.files |= {"peer": PeerError("x"), "gone": FileNotFoundError(), "broken": ConfigError("disk")}
        for name, code in (("nothing", "unknown"), ("peer", "unknown"), ("gone", "unknown"), ("broken", "failed")):
            await refused(files.fetch(name, max_bytes=10), code)
        await refused(files.fetch("chunks/abc", max_bytes=len(LARGE) - 1), "too-large")
        await refused(files.fetch("../secret", max_bytes=10), "name")
        assert server.counts == {"unknown": 3, "failed": 1, "served": 1}
        server._max_bytes = 100
        await refused(files.fetch("chunks/abc", max_bytes=len(LARGE)), "too-large")

    served(test)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "a/../b",
        "a..b",
        "./a",
        "a/",
        "a//b",
        ".hidden",
        "a/.b",
        "a\\b",
        "a b",
        "a\n",
        "x" * 256,
    ],
)
def test_what_is_no_file_name(name):
    assert not is_file_name(name)


def test_a_server_looks_at_names_itself():
    async def test(files, shelf, server, device, _coordinator):
        answers = []
        channel = device.channel("files")
        original = channel.put
        channel.put = lambda message: (answers.append(Answer.from_bytes(message.data)), original(message))
        for number, name in enumerate(["../x", "a//b", "é"]):
            await channel.send("coordinator", Request(number, name, 0, 10).to_bytes())
        await channel.send("coordinator", Request(9, "empty", 0, PIECE_BYTES + 1).to_bytes())
        while len(answers) < 4:
            await asyncio.sleep(0.01)
        assert {answer.number: answer.code for answer in answers} == {0: "name", 1: "name", 2: "name", 9: "range"}
        assert shelf.reads == 1

    served(test)


def test_pieces_of_two_versions_are_not_put_together():
    async def test(files, shelf, server, *_):
        original, other = shelf.files["chunks/abc"], LARGE[::-1]
        first = asyncio.create_task(files.fetch("chunks/abc", max_bytes=len(LARGE)))
        while not server.counts["served"]:
            await asyncio.sleep(0)
        shelf.files["chunks/abc"] = other
        server._kept._files.clear()
        server._kept._bytes = 0
        assert await first in {original, other}
        assert await files.fetch("chunks/abc", max_bytes=len(LARGE)) == other

    served(test)


def test_a_file_that_never_stands_still_is_given_up():
    async def test(files, shelf, server, *_):
        count = iter(range(1000))

        def read(name, *, max_bytes):
            return next(count).to_bytes(4) * PIECE_BYTES

        server._read = read
        server._kept.get = lambda name, digest: None
        await refused(files.fetch("chunks/abc", max_bytes=len(LARGE)), "changed")
        assert server.counts["changed"]

    served(test)


def test_a_peer_that_asks_too_much_at_a_time_is_told_so_and_then_not_heard():
    async def test(files, shelf, server, device, coordinator):
        shelf.gate.clear()
        await device.channel("files").send("coordinator", Request(0, "empty", 0, 10).to_bytes())
        for number in range(1, 10):  # at once
            request = Request(number, "empty", 0, 10).to_bytes()
            coordinator.channel("files").put(Delivered("device", Ident(1, number), request))
        while server._busy != {"device": 2}:  # two wait for the disk
            await asyncio.sleep(0.01)
        assert server.counts == {"busy": 2, "dropped": 6}
        shelf.gate.set()
        assert await files.fetch("empty", max_bytes=10) == b""

    served(test, per_peer=2)


def test_who_is_told_to_wait_gets_it_in_the_end():
    async def test(files, shelf, server, *_):
        assert await files.fetch("chunks/abc", max_bytes=len(LARGE)) == LARGE
        assert server.counts["busy"]
        assert not server._busy

    served(test, per_peer=2)


def test_a_request_that_was_lost_with_its_server_is_repeated():
    async def test(files, shelf, server, device, coordinator):
        channel = coordinator.channel("files")
        original, lost = channel.put, []

        def lose(message):
            lost.append(message)
            channel.put = original

        channel.put = lose
        assert await files.fetch("empty", max_bytes=10) == b""
        assert len(lost) == 1
        assert files.counts["repeated"] >= 1

    served(test)


def test_what_strangers_and_late_ones_say_is_counted():
    async def main():
        broker = MemoryBroker()
        device, real, hostile = (broker.join(name, limits=QUICK) for name in ("device", "coordinator", "hostile"))
        async with RemoteFiles(device.channel("files"), "coordinator") as files:
            await hostile.channel("files").send("device", Answer(1, "unknown").to_bytes())
            await real.channel("files").send("device", Answer(1, "unknown").to_bytes())
            await real.channel("files").send("device", b"junk")
            while files.counts.total() < 3:
                await asyncio.sleep(0.01)
            assert files.counts == {"stranger": 1, "late": 1, "malformed": 1}

    asyncio.run(main())


@pytest.mark.parametrize("lie", [{"size": 20}, {"digest": bytes(32)}, {"data": b"other data"}])
def test_a_server_that_contradicts_itself_is_not_believed(lie):
    async def main():
        broker = MemoryBroker()
        device, server = broker.join("device", limits=QUICK), broker.join("coordinator", limits=QUICK)

        async def answer():
            async for peer, data in server.channel("files").receive():
                request = Request.from_bytes(data)
                good = {"size": 10, "digest": hashlib.sha256(WHOLE).digest(), "data": WHOLE[request.offset :]}
                told = {**good, **lie} if request.offset == 0 else good
                await server.channel("files").post(peer, Answer(request.number, **told).to_bytes())

        answering = asyncio.create_task(answer())
        async with asyncio.timeout(240), RemoteFiles(device.channel("files"), "coordinator") as files:
            with pytest.raises(FileError) as error:
                await files.fetch("empty", max_bytes=100)
            assert error.value.code in {"failed", "changed"}
        answering.cancel()

    asyncio.run(main())


def test_a_server_that_mixes_versions_is_not_believed_where_the_whole_is_not_there_to_be_hashed():
    async def main():
        broker = MemoryBroker()
        device, server = broker.join("device", limits=QUICK), broker.join("coordinator", limits=QUICK)

        async def answer():
            async for peer, data in server.channel("files").receive():
                request = Request.from_bytes(data)
                digest = hashlib.sha256(str(request.offset).encode()).digest()
                piece = bytes(2 * PIECE_BYTES)[request.offset :][:PIECE_BYTES]
                told = Answer(request.number, "", 2 * PIECE_BYTES, digest, piece)
                await server.channel("files").post(peer, told.to_bytes())

        answering = asyncio.create_task(answer())
        async with asyncio.timeout(240), RemoteFiles(device.channel("files"), "coordinator") as files:
            await refused(files.fetch("model", max_bytes=1 << 20, offset=11), "changed")
        answering.cancel()

    asyncio.run(main())


def test_it_ends_in_time_and_when_it_is_closed():
    async def test(files, shelf, server, device, _coordinator):
        shelf.gate.clear()
        await refused(files.fetch("empty", max_bytes=10, timeout_s=0.1), "timeout")
        waiting = asyncio.create_task(files.fetch("empty", max_bytes=10))
        await asyncio.sleep(0.05)
        await device.aclose()
        await refused(waiting, "closed")
        await refused(files.fetch("empty", max_bytes=10), "closed")
        shelf.gate.set()

    served(test)


def test_a_source_is_for_threads():
    async def test(files, *_):
        source = files.source(timeout_s=120)
        assert await asyncio.to_thread(source.fetch, "chunks/abc", max_bytes=len(LARGE)) == LARGE
        with pytest.raises(FileError, match="no such file"):
            await asyncio.to_thread(source.fetch, "nothing", max_bytes=10)
        with pytest.raises(ValueError, match="call it from a thread"):
            source.fetch("empty", max_bytes=10)

    served(test)


def test_a_source_that_is_closed_gives_up_what_is_being_fetched():
    async def test(files, shelf, *_):
        source = files.source(timeout_s=300)
        shelf.gate.clear()
        waiting = asyncio.ensure_future(asyncio.to_thread(source.fetch, "chunks/abc", max_bytes=len(LARGE)))
        await asyncio.sleep(0.1)
        source.close()
        await refused(waiting, "closed")
        await refused(asyncio.to_thread(source.fetch, "empty", max_bytes=10), "closed")
        shelf.gate.set()
        assert await files.fetch("empty", max_bytes=10) == b"", "only the source is closed"

    served(test)


def test_a_source_whose_loop_has_ended_says_so():
    kept = []

    async def test(files, *_):
        kept.append(files.source())

    served(test)
    with pytest.raises(FileError, match="the event loop has ended"):
        kept[0].fetch("empty", max_bytes=10)


def test_readers_by_prefix():
    read = routed({"a": lambda name, *, max_bytes: name.encode(), "b": lambda name, *, max_bytes: b"b"})
    assert (read("a/1", max_bytes=9), read("b", max_bytes=9)) == (b"a/1", b"b")
    with pytest.raises(LookupError):
        read("c/1", max_bytes=9)


REQUEST = [1, 5, "name", 0, 10, b""]
ANSWER = [1, 5, "", 3, bytes(32), b"abc"]


def test_the_bytes_of_both_messages():
    assert Request(5, "name", 0, 10).to_bytes() == bytes.fromhex("860105646e616d65000a40")
    assert Answer(5, "busy").to_bytes() == bytes.fromhex("8601056462757379004040")
    assert Request.from_bytes(dumps(REQUEST)) == Request(5, "name", 0, 10)
    assert Answer.from_bytes(dumps(ANSWER)) == Answer(5, "", 3, bytes(32), b"abc")


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        (Request, 0, 2),
        (Request, 1, -1),
        (Request, 1, True),
        (Request, 2, "x" * 256),
        (Request, 2, b"name"),
        (Request, 3, 1 << 62),
        (Request, 4, "10"),
        (Request, 5, b"short"),
        (Answer, 2, "nonsense"),
        (Answer, 4, b""),
        (Answer, 5, bytes(PIECE_BYTES + 1)),
        (Answer, 3, -1),
    ],
)
def test_messages_that_nobody_would_write(kind, at, value):
    good = REQUEST if kind is Request else ANSWER
    with pytest.raises(DecodeError):
        kind.from_bytes(dumps([value if index == at else part for index, part in enumerate(good)]))
    with pytest.raises(DecodeError):
        kind.from_bytes(dumps([*good, 1]))
