"""Neighbours that do not keep to the protocol, with the methods of a swarm."""

from dataclasses import replace

from swarm_worlds import Memory

from fedmesh.mesh.swarm import Outgoing, Swarm
from fedmesh.mesh.swarm.messages import Bits, Piece, Refusal, decode, encode


class Claiming(Memory):
    """Says that it has everything, and has nothing."""

    def mask(self, blob):
        return (1 << len(blob.chunks)) - 1

    def read(self, name):
        return None


class Liar:
    """A swarm whose messages are changed on their way out: `twist` gives another message, or None."""

    def __init__(self, holdings, rng, twist):
        self.swarm, self.twist = Swarm(holdings, rng=rng), twist

    @property
    def due(self):
        return self.swarm.due

    def __getattr__(self, name):
        def call(*arguments, **options):
            return [made for item in getattr(self.swarm, name)(*arguments, **options) if (made := self._out(item))]

        return call

    def _out(self, item):
        message = self.twist(decode(item.data))
        return None if message is None else Outgoing(item.to, encode(message), isinstance(message, Piece))


def poison(message):
    """Chunks with one byte changed."""
    if isinstance(message, Piece):
        return replace(message, data=bytes([message.data[0] ^ 1]) + message.data[1:])
    return message


def mute(message):
    """Never an answer."""
    return None if isinstance(message, Piece | Refusal) else message


def honest(message):
    return message


def bragging(message):
    """All bits set, whatever is there."""
    return replace(message, mask=(1 << message.count) - 1) if isinstance(message, Bits) else message


def short(message):
    """Chunks that end too early."""
    return replace(message, data=message.data[:-1]) if isinstance(message, Piece) else message


class Forger:
    """An origin whose files, or whose pointer, are changed on their way out."""

    def __init__(self, origin, change=lambda name, data: data, pointer=None):
        self._origin, self._change = origin, change
        self._read = origin.published.read
        origin.published.read = self.read
        if pointer is not None:
            origin.published.pointer = pointer

    def read(self, name):
        data = self._read(name)
        return None if data is None else self._change(name, data)


def flipped(data):
    """One byte near the end changed."""
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
