"""How a peer listens, whom it calls, and what it puts up with."""

import math
from dataclasses import dataclass

from fedmesh.errors import ConfigError
from fedmesh.types import PeerId

__all__ = ["Address", "PeerOptions"]

Address = tuple[str, int]
"""Host (a name, IPv4 or IPv6) and port."""


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """The defaults suit a device in a mesh.

    Attributes:
        listen: where we are dialled; port 0: any. Empty: nowhere, we dial only.
        announces: whether we have something to announce.
        keep: peers with whom there is to be a connection always, wanted or not. As many as `connections` at most.
            Best said at both ends: one that does not keep us hangs up when it is idle, and is called again.
        connections: live ones at once; the least recently used gives way to a new one. Those that are being made
            may come on top.
        rest_s: unless it was used since: then the new one has to come later.
        strangers: connections that have not been greeted yet, of those who dial us; `per_address` of one IPv4 address,
            or one /64 of IPv6.
        dials: connections that we are making at once.
        idle_s: a connection that nothing used for so long is ended.
        quiet_s: silence after which the other end is asked whether it is there; gone after twice that. Half of it for
            whom somebody doubts (`PeerTransport.doubt`).
        frame_s: what one frame may take to arrive, and how long nothing of what we send may be taken.
        connect_s, handshake_s, hello_s: what each step of a new connection may take.
        reconnect_s, reconnect_max_s: first and longest wait before dialling again.
        steady_s: a connection that lasted so long was a good one: the next failure is the first.
        bytes_per_s: most that is sent, to all peers together; None: no limit.
        relay: whether we carry what two others say to each other who cannot reach each other. circuits: at once, with
            `circuits_each` of one peer. relay_bytes_per_s: most that is carried, of all circuits together.
        patience_s: when a peer does not answer by then, a neighbour is asked to relay.
        direct_s: how often a peer that is reached through a neighbour is dialled itself.
    """

    listen: tuple[Address, ...] = ()
    announces: bool = False
    keep: frozenset[PeerId] = frozenset()
    connections: int = 16
    rest_s: float = 1.0
    strangers: int = 32
    per_address: int = 8
    dials: int = 4
    idle_s: float = 120.0
    quiet_s: float = 20.0
    frame_s: float = 60.0
    connect_s: float = 5.0
    handshake_s: float = 5.0
    hello_s: float = 5.0
    reconnect_s: float = 0.2
    reconnect_max_s: float = 60.0
    steady_s: float = 10.0
    bytes_per_s: float | None = None
    relay: bool = True
    circuits: int = 16
    circuits_each: int = 4
    relay_bytes_per_s: float = 1_000_000.0
    patience_s: float = 5.0
    direct_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises: ConfigError: a bound is not positive and finite, or more is kept than there may be."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < math.inf:
                raise ConfigError(f"the peers' option {name} is {value}: it has to be positive and finite")
        if len(self.keep) > self.connections:
            raise ConfigError(
                f"{len(self.keep)} peers are to be kept and {self.connections} connections may be there: raise "
                "connections, or keep fewer"
            )
