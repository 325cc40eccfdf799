"""How a device fetches from its neighbours and what it does for them. All times are seconds."""

import math
from dataclasses import dataclass

from fedmesh.errors import ConfigError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are for links from 1 to 100 Mbit/s.

    Attributes:
        sources: so many neighbours give something at a time; as many more may let this device wait in their queues.
        pipeline: requests under way to each of them.
        request_s: a neighbour that gives nothing for so long does not answer.
        overdue: near the end, a chunk that takes so many times as long as others is asked of somebody else.
        bits_s: a neighbour is told of new chunks so often at most; interest_s: and hears so often that it should.
        announce_s: so often the pointer is repeated.
        uploads: pieces that leave at a time; one whose receiver is slow makes room for another, up to four times as
            many. uploads_each: to one neighbour.
        queue: requests of one neighbour that wait; send_s: a piece that does not leave for so long is given up.
        reveal: an origin names so many chunks at a time to a neighbour that nobody else has.
        patience_s: and tells one that gets nothing for so long, from anybody, of all it has.
        ban_s: after a lie that can be proved (a chunk or metadata that is not what was asked for) nothing is heard of a
            neighbour for so long; snub_s: nothing is asked of one that does not answer.
        strikes: requests without an answer, misses: chunks it said it had, before that.
        messages_s: messages a second, pieces left aside, of one neighbour; burst: at once.
        neighbours: links; looks_s: to the next look at somebody's metadata where one came to nothing.
        delta_s: when nobody here has a delta for so long, the whole file is fetched.
        store_bytes: of chunks that are kept beyond what is being fetched.

    Raises:
        ConfigError: one of them is out of range.
    """

    sources: int = 6
    pipeline: int = 2
    request_s: float = 30.0
    overdue: float = 2.0
    bits_s: float = 0.2
    interest_s: float = 5.0
    announce_s: float = 30.0
    uploads: int = 2
    uploads_each: int = 1
    queue: int = 8
    send_s: float = 60.0
    reveal: int = 4
    patience_s: float = 2.0
    ban_s: float = 600.0
    snub_s: float = 60.0
    strikes: int = 3
    misses: int = 8
    messages_s: float = 100.0
    burst: int = 400
    neighbours: int = 64
    looks_s: float = 2.0
    delta_s: float = 15.0
    store_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        whole = ("sources", "pipeline", "uploads", "uploads_each", "queue", "reveal", "strikes", "misses", "burst")
        times: tuple[str, ...] = (
            "request_s",
            "overdue",
            "bits_s",
            "interest_s",
            "announce_s",
            "send_s",
            "patience_s",
            "ban_s",
        )
        times += ("snub_s", "messages_s", "looks_s", "delta_s")
        bad = [name for name in (*whole, "neighbours") if not 1 <= getattr(self, name) <= 4096]
        bad += ["store_bytes"] if self.store_bytes < 0 else []
        bad += [name for name in times if not 0 < getattr(self, name) < math.inf]
        if bad:
            raise ConfigError(
                f"the swarm's {', '.join(bad)} cannot be {', '.join(str(getattr(self, name)) for name in bad)}: counts "
                "are 1 to 4096, times above 0"
            )
