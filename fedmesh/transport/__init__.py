"""Messages between parties: the seam is `fedmesh.types.Transport`, the carriers are MQTT, TLS between peers, memory.

Whatever the carrier loses, repeats, reorders or forges, a message is given out once and as it was sent, or its sender
learns that it was not. Import carriers by their modules (`fedmesh.transport.mqtt`): paho is loaded with them.
"""

from fedmesh.transport.limits import Limits
from fedmesh.transport.spool import Spool

__all__ = ["Limits", "Spool"]
