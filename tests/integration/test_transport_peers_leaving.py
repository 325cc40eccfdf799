"""Whoever gives pieces one after the other is told when one waits here no longer, before its receiver has said so."""

import asyncio
import os

from peer_mesh import PeerMesh, play, until

from fedmesh.mesh.swarm.messages import Piece, encode
from fedmesh.registry.limits import CHUNK_BYTES, LARGEST_CHUNK_BYTES
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Ident, Whole
from fedmesh.transport.frames import decode as frame_in
from fedmesh.transport.frames import encode as frame_of
from fedmesh.transport.limits import FRAME_BYTES, MAX_CHUNK_BYTES, WHOLE_BYTES, Limits


def test_a_chunk_of_a_model_goes_in_one_frame():
    piece = encode(Piece((1 << 32) - 1, (1 << 32) - 1, bytes(LARGEST_CHUNK_BYTES)))
    assert MAX_CHUNK_BYTES < len(piece) <= WHOLE_BYTES
    assert Content.of(piece, MAX_CHUNK_BYTES).chunks == 1
    assert Content.of(bytes(WHOLE_BYTES + 1), MAX_CHUNK_BYTES).chunks == 2
    assert Content.of(bytes(1_001), 1_000).chunks == 2
    longest = Whole(Ident(1 << 62, 1 << 62), 1 << 62, 1 << 62, bytes(32), bytes(WHOLE_BYTES), 5)
    assert len(frame_of(longest)) <= FRAME_BYTES
    assert frame_in(frame_of(longest)) == longest


def test_what_the_network_has_has_left_and_what_waits_has_not(tmp_path):
    mesh = PeerMesh(tmp_path, limits=Limits(message_bytes=4 << 20, peer_bytes=64 << 20, small=64))

    async def test(entered):
        sender, receiver = await entered(mesh.open("sender")), await entered(mesh.open("receiver"))
        await sender.connect("receiver", wait_s=20.0)
        await until(lambda: "sender" in receiver.links)
        stream = receiver.carrier.pool.links["sender"]._transport
        stream.pause_reading()
        pieces = [os.urandom(CHUNK_BYTES + 20) for _ in range(60)]
        receipts = [await sender.post("receiver", piece) for piece in pieces]
        leaving = [asyncio.create_task(receipt.left()) for receipt in receipts]
        arriving = [asyncio.create_task(receipt.delivered()) for receipt in receipts]
        await leaving[0]
        assert not leaving[-1].done()
        assert not any(one.done() for one in arriving)
        stream._transport.resume_reading()
        await asyncio.gather(*leaving, *arriving)
        got = receiver.receive()
        assert [(await anext(got))[1] for _ in pieces] == pieces

    play(test, within_s=60.0)


def test_what_never_leaves_has_left_when_it_is_given_up(tmp_path):
    mesh = PeerMesh(tmp_path)

    async def test(entered):
        sender = await entered(mesh.open("sender"))
        mesh.member("nobody")
        receipt = await sender.post("nobody", b"hello")
        leaving = asyncio.create_task(receipt.left())
        await asyncio.sleep(0)
        assert not leaving.done()
        await sender.aclose()
        await leaving

    play(test, within_s=60.0)
