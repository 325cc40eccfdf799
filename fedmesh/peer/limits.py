"""What a member's transport holds at most. An input of secure aggregation goes as one message, and so does their sum.

Of the longest messages a few have room at once; more wait at their senders. `[limits] message_mb` lowers all of it on a
device with little memory, which then declines runs with longer inputs (`fedmesh.peer.sizes`).
"""

from fedmesh.transport.limits import Limits
from fedmesh.transport.list_gossip import MAX_MESSAGE_BYTES

__all__ = ["LEAST_BYTES", "MOST_MB", "limits_for", "longest_message"]

MOST_MB = 64
"""Longest message of a mesh: 20 million parameters at 24 bits."""
LEAST_BYTES = MAX_MESSAGE_BYTES
"""A signed list, which every member has to take."""
_HEAD_BYTES = 1024
_YEAR_S = 366 * 86_400.0


def longest_message(message_mb: int) -> int:
    """Bytes of the longest message, where the operator takes so many megabytes: up to what a mesh has."""
    return max(min(message_mb, MOST_MB) << 20, LEAST_BYTES)


def limits_for(message_mb: int) -> Limits:
    """Of a member whose operator takes messages of so many megabytes, up to what a mesh has."""
    longest = longest_message(message_mb) + _HEAD_BYTES
    return Limits(
        message_bytes=longest,
        peer_bytes=2 * longest,
        incoming_bytes=4 * longest,
        outgoing_bytes=4 * longest,
        clock_skew_s=10 * _YEAR_S,  # nothing waits in a broker here, and a device may have no clock
    )
