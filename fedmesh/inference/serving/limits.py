"""What one endpoint lets in."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an endpoint.

    Attributes:
        body_bytes: of a request.
        json_bytes: of a request in JSON, whose lists take up to 25 times as much for a moment.
        examples: in a request.
        at_once: requests that are read or answered at a time; one more is told to come again.
        connections: open at a time.
        head_s, body_s: within which the head and the body of a request have to be there.
        idle_s: after which a connection without a request is closed.
        drain_s: that requests get to end when the endpoint is stopped.
        lists_s: how often identity's files are looked at, and live connections with them.
    """

    body_bytes: int = 4 * 1024 * 1024
    json_bytes: int = 1024 * 1024
    examples: int = 256
    at_once: int = 16
    connections: int = 64
    head_s: float = 5.0
    body_s: float = 30.0
    idle_s: int = 30
    drain_s: int = 30
    lists_s: float = 2.0
