"""What one endpoint of a transport holds, sends and waits for at most: every queue and buffer has its bound here."""

import math
from dataclasses import dataclass

from fedmesh.errors import ConfigError

__all__ = [
    "CHANNELS",
    "FLEETING",
    "FRAME_BYTES",
    "HASH_BYTES",
    "MAX_CHUNKS",
    "MAX_CHUNK_BYTES",
    "PACKET_BYTES",
    "PARCEL_BYTES",
    "WHOLE_BYTES",
    "Limits",
]

CHANNELS = ("main", "fleet", "files", "members", "lists", "swarm", "rounds", "blobs")
"""What messages are about; its place in this list is a channel's number on the wire. Only ever added to."""
FLEETING = frozenset(CHANNELS.index(name) for name in ("files", "members", "lists", "swarm", "rounds", "blobs"))
"""Channels whose messages are asked for again by who misses them: they are never written to a spool."""
MAX_CHUNK_BYTES = 256 * 1024
MAX_CHUNKS = 8192
WHOLE_BYTES = MAX_CHUNK_BYTES + 512
"""Longest message that goes in one frame, unannounced: a chunk of somebody's own, and a few words about it."""
HASH_BYTES = 32
FRAME_BYTES = MAX_CHUNK_BYTES + 1024
"""Longest frame of the protocol: a chunk and its head, or the hashes of `MAX_CHUNKS` chunks and theirs."""
PARCEL_BYTES = FRAME_BYTES + 16 * 1024
"""Longest parcel: a frame, and answers that go with it."""
PACKET_BYTES = PARCEL_BYTES + 1024
"""Longest MQTT packet: a parcel, its topic and properties."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one endpoint; the defaults suit a device, a coordinator of many raises the totals.

    Channels share a bound, but an eighth of it is each one's own whatever the others hold (`Account`): with all of them
    full, seven eighths more than the bound are held.

    Attributes:
        message_bytes: longest message, either way.
        chunk_bytes: length of the chunks that are sent; any up to `MAX_CHUNK_BYTES` is received.
        window: chunks of one message that are under way without an acknowledgement.
        transfers: long messages (more than a chunk) open at once with one peer on one channel, each way.
        small: short messages to one peer on one channel that are under way at once.
        queued: messages to one peer on one channel that wait or are under way; one more has to wait outside.
        peer_bytes: announced or complete but not yet taken by the application, from one peer.
        peer_messages: the same, in messages.
        incoming_bytes: the same, from all peers.
        outgoing_bytes: messages held for sending, to all peers.
        peers: peers that are remembered; a new one beyond is refused.
        retry_s, retry_max_s: first and longest wait for an answer before asking again.
        idle_s: a message of which nothing has arrived for so long is given up (with a spool it waits for its expiry).
        lifetime_s: of a message when nothing else is said, and the longest that is accepted.
        clock_skew_s: by how much two clocks may differ where a deadline is held against the wrong one.
    """

    message_bytes: int = 256 << 20
    chunk_bytes: int = 256 << 10
    window: int = 16
    transfers: int = 4
    small: int = 32
    queued: int = 1024
    peer_bytes: int = 512 << 20
    peer_messages: int = 1024
    incoming_bytes: int = 1 << 30
    outgoing_bytes: int = 1 << 30
    peers: int = 4096
    retry_s: float = 3.0
    retry_max_s: float = 60.0
    idle_s: float = 300.0
    lifetime_s: float = 86400.0
    clock_skew_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises: ConfigError: a bound is not positive, or the longest message cannot be sent within the others."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not (value >= 0 if name == "clock_skew_s" else value > 0) or not math.isfinite(value):
                raise ConfigError(f"the transport's limit {name} is {value}: it has to be positive and finite")
        if self.chunk_bytes > MAX_CHUNK_BYTES:
            raise ConfigError(f"chunk_bytes is {self.chunk_bytes}, the protocol carries at most {MAX_CHUNK_BYTES}")
        if self.message_bytes > self.chunk_bytes * MAX_CHUNKS:
            raise ConfigError(
                f"messages of {self.message_bytes} bytes do not fit into {MAX_CHUNKS} chunks of {self.chunk_bytes}: "
                "raise chunk_bytes or lower message_bytes"
            )
        if self.message_bytes > min(self.peer_bytes, self.incoming_bytes, self.outgoing_bytes):
            raise ConfigError(
                f"a message may have {self.message_bytes} bytes, more than peer_bytes, incoming_bytes or "
                "outgoing_bytes lets in: lower message_bytes"
            )
