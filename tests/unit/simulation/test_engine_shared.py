"""Shared memory, pipes and the placement of a job's bytes."""

import gc
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import training

from fedmesh.errors import ConfigError, DataError
from fedmesh.flower.envelope import Envelope
from fedmesh.pipes import Pipe, PipeClosedError
from fedmesh.simulation.placement import Placement
from fedmesh.simulation.shared import Block, SharedExamples


def test_a_block_is_read_where_it_is_attached() -> None:
    block = Block.create(100)
    block.write(b"hello", 10)
    twin = Block.attach(os.dup(block.fd), block.size)
    assert twin.read(5, 10) == b"hello"
    block.write(b"later", 10)
    assert twin.read(5, 10) == b"later"
    block.close()
    block.close()
    twin.close()


def test_a_private_block_keeps_its_changes_to_itself() -> None:
    block = Block.create(8)
    twin = Block.attach(os.dup(block.fd), 8, private=True)
    twin.array("<f4", (2,))[:] = 1
    assert block.read(8) == bytes(8)
    block.close()
    twin.close()


def test_blocks_have_no_name_and_are_gone_with_their_holder() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what earlier tests left behind must not go in between
    files = open_files()
    block = Block.create(1 << 16)
    assert os.fstat(block.fd).st_nlink == 0
    assert open_files() > files
    block.close()
    del block
    gc.collect()
    assert open_files() == files


def test_more_memory_than_there_is_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="bytes of shared memory"):
        Block.create(1 << 55)


def test_shared_examples_are_those_that_were_packed() -> None:
    devices = [training.examples(device, count) for device, count in enumerate((5, 0, 3))]
    shared = SharedExamples.pack(devices)
    twin = SharedExamples.attach(os.dup(shared.block.fd), json.loads(json.dumps(shared.to_plain())))
    source = twin.source()
    for device, examples in enumerate(devices):
        np.testing.assert_array_equal(source(device).x, examples.x)
        np.testing.assert_array_equal(source(device).y, examples.y)
        assert source(device).y.dtype == np.int64
    for stranger in (-1, 3):
        with pytest.raises(DataError, match="no partition"):
            source(stranger)
    shared.block.close()
    twin.block.close()


def test_devices_with_examples_of_different_shapes_cannot_share() -> None:
    other = training.examples(0)
    with pytest.raises(DataError, match="one shape"):
        SharedExamples.pack([other, type(other)(other.x[:, :, :4], other.y)])
    with pytest.raises(DataError):
        SharedExamples.pack([])


def test_frames_arrive_whole_and_in_order_with_their_descriptors() -> None:
    left, right = Pipe.pair()
    block = Block.create(4)
    block.write(b"abcd")
    large = os.urandom(3_000_000)
    sender = threading.Thread(target=lambda: (left.send([b"", large, b"x"]), left.send([b"fd"], [block.fd])))
    sender.start()
    assert right.receive() == ([b"", large, b"x"], [])
    parts, (fd,) = right.receive()
    sender.join()
    assert parts == [b"fd"]
    assert not os.get_inheritable(fd)
    twin = Block.attach(fd, 4)
    assert twin.read(4) == b"abcd"
    for end in (left, right, block, twin):
        end.close()


def test_a_closed_end_is_noticed() -> None:
    left, right = Pipe.pair()
    left.close()
    left.close()
    with pytest.raises(PipeClosedError):
        right.receive()
    with pytest.raises(PipeClosedError):
        right.send([b"x"])
    right.close()


def header(parts: list[bytes]) -> dict[str, object]:
    return json.loads(parts[0])


def test_bytes_that_many_jobs_share_are_placed_and_sent_once() -> None:
    placement, model = Placement(), (os.urandom(5000), os.urandom(7000))
    jobs = [[(node, Envelope(b"meta", model), b"")] for node in (2, 3)]
    first, fds = placement.place("worker", "bundle 1", jobs[0])
    assert len(fds) == 1
    second, none = placement.place("worker", "bundle 2", jobs[1])
    assert none == []
    assert len(placement.place("other worker", "bundle 3", jobs[1])[1]) == 1
    assert header(first)["jobs"][0]["buffers"] == header(second)["jobs"][0]["buffers"]
    assert sum(map(len, second)) < 1000
    placement.close()


def test_a_block_is_reused_only_when_nobody_reads_it_any_more() -> None:
    placement = Placement()

    def place(bundle: str, content: bytes) -> int:
        parts, _ = placement.place("worker", bundle, [(2, Envelope(b"", (content,)), b"")])
        return header(parts)["jobs"][0]["buffers"]["block"]

    old, new, newer = os.urandom(9000), os.urandom(9000), os.urandom(8000)
    first = place("a", old)
    assert place("b", old) == first
    placement.release("a")
    second = place("c", new)
    assert second != first  # b still reads the first
    placement.release("b")
    assert place("d", newer) == first
    placement.close()


def test_blocks_that_are_given_up_are_dropped_by_their_readers() -> None:
    placement = Placement()
    contents = [os.urandom(4096 * 3**k) for k in range(8)] + [os.urandom(5000), os.urandom(20_000)]
    for number, content in enumerate(contents):
        placement.place("worker", number, [(2, Envelope(b"", (content,)), b"")])
    for number in range(len(contents)):
        placement.release(number)
    parts, _ = placement.place("worker", "next", [(2, Envelope(b"", ()), b"")])
    assert header(parts)["dropped"] == [1, 2]
    placement.close()


def test_small_parts_travel_in_the_frame() -> None:
    placement = Placement()
    parts, fds = placement.place("worker", 1, [(2, Envelope(b"meta", (b"ab", b"cde")), b"state")])
    assert fds == []
    job = header(parts)["jobs"][0]
    assert parts[job["buffers"]["part"]] == b"abcde"
    assert job["buffers"]["lengths"] == [2, 3]
    placement.close()
