"""A coordinator's files, as the swarm asks a neighbour for them."""

import asyncio
import hashlib

from mesh_nodes import in_loop

from fedmesh.errors import FileError, PeerError
from fedmesh.mesh.swarm.messages import Announce, Bits, Cancel, Piece, Refusal, Request, decode, encode
from fedmesh.peer.upstream import Upstream

CHUNK = b"chunk" * 1000
NAME = f"chunks/{hashlib.sha256(CHUNK).hexdigest()}"
GOLDEN = f"targets/{'0' * 64}.golden.cbor"


class Files:
    """Serves `held`; `fetch` waits for `gate`."""

    def __init__(self):
        self.held, self.asked, self.gate = {NAME: CHUNK, GOLDEN: b"g" * 600_000}, [], asyncio.Event()
        self.error = None
        self.gate.set()

    async def fetch(self, name, *, max_bytes, timeout_s):
        self.asked.append((name, max_bytes))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if name not in self.held:
            raise FileError("it has no such file", code="unknown")
        return self.held[name]


def made():
    files, heard = Files(), []
    return files, heard, Upstream(files, lambda data: heard.append(decode(data)))


async def until(holds):
    while not holds():
        await asyncio.sleep(0)


@in_loop
async def test_a_request_becomes_a_fetch_and_its_bytes_a_piece():
    files, heard, upstream = made()
    upstream.send(encode(Request(7, NAME, 0, len(CHUNK))))
    assert heard == [], "nothing comes back before the call has returned"
    await until(lambda: heard)
    assert heard == [Piece(7, len(CHUNK), CHUNK)]
    assert files.asked == [(NAME, 256 * 1024)]
    for number, offset in enumerate((0, 262_144, 524_288)):
        upstream.send(encode(Request(number, GOLDEN, offset, 262_144)))
        await until(lambda number=number: len(heard) == number + 2)
    assert b"".join(piece.data for piece in heard[1:]) == files.held[GOLDEN]
    assert len(files.asked) == 2, "a longer file is fetched once"


@in_loop
async def test_what_it_does_not_give():
    files, heard, upstream = made()
    missing = f"chunks/{'1' * 64}"
    for number, (name, offset) in enumerate([(missing, 0), ("../../keys/root", 0), (NAME, len(CHUNK))]):
        upstream.send(encode(Request(number, name, offset, 10)))
    await until(lambda: len(heard) == 3)
    assert sorted(heard, key=lambda one: one.number) == [
        Refusal(0, "unknown"),
        Refusal(1, "unknown"),
        Refusal(2, "range"),
    ]
    assert [name for name, _ in files.asked] == [missing, NAME]
    for error in (FileError("late", code="timeout"), PeerError("no room")):
        files.error = error
        upstream.send(encode(Request(9, NAME, 0, 10)))
        await until(lambda: not upstream._fetching)
    assert len(heard) == 3, "silence: the swarm's own time runs out"


@in_loop
async def test_it_has_all_of_what_is_wanted_and_wants_nothing():
    _, heard, upstream = made()
    blob = bytes(32)
    upstream.send(encode(Bits(blob, 10, 0, wants=True)))
    upstream.send(encode(Bits(blob, 10, 0, wants=False)))
    upstream.send(encode(Announce(b"")))
    await asyncio.sleep(0.01)
    assert heard == [Bits(blob, 10, (1 << 10) - 1, wants=False)]
    upstream.announce(b"")
    upstream.announce(b"pointer")
    assert heard[1:] == [Announce(b"pointer")]


@in_loop
async def test_requests_under_way_are_bounded_and_can_be_cancelled():
    files, heard, upstream = made()
    files.gate.clear()
    for number in range(17):
        upstream.send(encode(Request(number, NAME, 0, 10)))
    await until(lambda: heard)
    assert heard == [Refusal(16, "busy")]
    upstream.send(encode(Cancel(0)))
    upstream.send(encode(Cancel(99)))
    await until(lambda: len(upstream._fetching) == 15)
    await upstream.aclose()
    assert heard == [Refusal(16, "busy")]
