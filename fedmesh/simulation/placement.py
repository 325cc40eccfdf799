"""Where a job's bytes go on their way to a worker: large ones into shared memory, once for all workers that need them.

The engine owns the blocks. A block is written when the first job that refers to it is sent, and written anew with
something else when the last of these jobs is done. Frames stay small, so that an engine that writes and a worker that
writes never wait for each other.
"""

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmesh.flower.envelope import Buffer, Envelope
from fedmesh.simulation.shared import Block

__all__ = ["Placement"]

_INLINE_BYTES = 2048
_FREE_BLOCKS = 8


@dataclass(slots=True, eq=False)
class _Placed:
    """A block with the bytes that it holds at present, and the tasks that still need them."""

    number: int
    block: Block
    content: tuple[Buffer, ...] = ()
    tasks: set[Hashable] = field(default_factory=set)


class Placement:
    """The blocks of one engine."""

    def __init__(self) -> None:
        self._numbers = 0
        self._by_content: dict[tuple[int, ...], _Placed] = {}
        self._by_task: defaultdict[Hashable, list[_Placed]] = defaultdict(list)
        self._free: list[_Placed] = []
        self._known: defaultdict[Hashable, set[int]] = defaultdict(set)
        self._dropped: defaultdict[Hashable, list[int]] = defaultdict(list)

    def place(
        self, worker: Hashable, task: Hashable, jobs: Sequence[tuple[int, Envelope, bytes]]
    ) -> tuple[list[bytes], list[int]]:
        """The frame that hands `task` to `worker`: parts, and the descriptors of blocks that it does not know yet.

        jobs: node id, folded message and node state of each.
        """
        parts: list[bytes] = [b""]
        placed: dict[int, _Placed] = {}

        def put(*buffers: Buffer) -> dict[str, Any]:
            lengths = [len(buffer) for buffer in buffers]
            if sum(lengths) <= _INLINE_BYTES:
                parts.append(b"".join(buffers))
                return {"part": len(parts) - 1, "lengths": lengths}
            home = self._home_of(buffers, task)
            placed[home.number] = home
            return {"block": home.number, "lengths": lengths}

        items: list[dict[str, Any]] = [
            {"node": node_id, "meta": put(envelope.meta), "state": put(state), "buffers": put(*envelope.buffers)}
            for node_id, envelope, state in jobs
        ]
        fresh = [home for number, home in placed.items() if number not in self._known[worker]]
        self._known[worker].update(home.number for home in fresh)
        header = {
            "jobs": items,
            "blocks": [[home.number, home.block.size] for home in fresh],
            "dropped": self._dropped.pop(worker, []),
        }
        parts[0] = json.dumps(header).encode()
        return parts, [home.block.fd for home in fresh]

    def release(self, task: Hashable) -> None:
        """`task` is done: nobody reads its blocks for it any more."""
        for home in self._by_task.pop(task, []):
            home.tasks.discard(task)
            if not home.tasks:
                del self._by_content[_identity(home.content)]
                home.content = ()
                self._free.append(home)
        while len(self._free) > _FREE_BLOCKS:
            self._drop(self._free.pop(0))

    def forget(self, worker: Hashable) -> None:
        """`worker` is gone."""
        self._known.pop(worker, None)
        self._dropped.pop(worker, None)

    def close(self) -> None:
        """Gives every block back."""
        for home in [*self._free, *self._by_content.values()]:
            home.block.close()
        self._free.clear()
        self._by_content.clear()
        self._by_task.clear()

    def _home_of(self, buffers: tuple[Buffer, ...], task: Hashable) -> _Placed:
        """The block that holds `buffers`, one behind the other; the same objects for many devices are written once."""
        home = self._by_content.get(_identity(buffers))
        if home is None:
            home = self._free_block(sum(map(len, buffers)))
            offset = 0
            for buffer in buffers:
                home.block.write(memoryview(buffer), offset)
                offset += len(buffer)
            home.content = buffers
            self._by_content[_identity(buffers)] = home
        if task not in home.tasks:
            home.tasks.add(task)
            self._by_task[task].append(home)
        return home

    def _free_block(self, size: int) -> _Placed:
        fitting = [home for home in self._free if size <= home.block.size <= 2 * size]
        if fitting:
            home = min(fitting, key=lambda home: home.block.size)
            self._free.remove(home)
            return home
        self._numbers += 1
        return _Placed(self._numbers, Block.create(size))

    def _drop(self, home: _Placed) -> None:
        home.block.close()
        for worker, known in self._known.items():
            if home.number in known:
                known.discard(home.number)
                self._dropped[worker].append(home.number)


def _identity(buffers: tuple[Buffer, ...]) -> tuple[int, ...]:
    """Whose bytes these are; sound as long as somebody holds them, as `_Placed.content` does."""
    return tuple(map(id, buffers))
