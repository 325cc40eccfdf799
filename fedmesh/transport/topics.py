"""Topics: who may write where is the broker's access rule, so the topic of a frame says who it is from.

::

    fm/up/<device>/msg/<coordinator>      frames of a device: written by it alone
    fm/up/<device>/presence               retained, and its last will
    fm/down/<device>/msg/<coordinator>    frames of a coordinator: read by the device alone
    fm/all/<coordinator>/presence         retained, and its last will; read by everybody
    fm/all/<coordinator>/<what>           retained: announcements of a coordinator, read by everybody
"""

from dataclasses import dataclass

from fedmesh.identity.names import is_id
from fedmesh.transport.announcing import ANNOUNCEMENTS
from fedmesh.types import PeerId

__all__ = ["Topics", "access_rules"]


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one party: a device, which talks with coordinators, or a coordinator, which talks with devices."""

    name: PeerId
    coordinator: bool

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Filters of what it reads."""
        if self.coordinator:
            return (f"fm/up/+/msg/{self.name}", "fm/up/+/presence")
        announcements = [f"fm/all/+/{what}" for what in ANNOUNCEMENTS]
        return (f"fm/down/{self.name}/msg/+", "fm/all/+/presence", *announcements)

    @property
    def presence(self) -> str:
        """Where it says that it is there."""
        return f"fm/all/{self.name}/presence" if self.coordinator else f"fm/up/{self.name}/presence"

    def announcement(self, what: str) -> str:
        """Where this coordinator announces `what`."""
        return f"fm/all/{self.name}/{what}"

    def frames_to(self, peer: PeerId) -> str:
        """Where frames for `peer` are written."""
        return f"fm/down/{peer}/msg/{self.name}" if self.coordinator else f"fm/up/{self.name}/msg/{peer}"

    def sender_of(self, topic: str) -> tuple[PeerId, str] | None:
        """Who wrote to `topic` and what: ``msg``, ``presence`` or an announcement; None: nothing that is read here."""
        match topic.split("/"):
            case ["fm", "up", device, "msg", self.name] if self.coordinator and is_id(device):
                return device, "msg"
            case ["fm", "up", device, "presence"] if self.coordinator and is_id(device):
                return device, "presence"
            case ["fm", "down", self.name, "msg", coordinator] if not self.coordinator and is_id(coordinator):
                return coordinator, "msg"
            case ["fm", "all", coordinator, what] if not self.coordinator and is_id(coordinator):
                return (coordinator, what) if what in {"presence", *ANNOUNCEMENTS} else None
        return None


def access_rules(coordinators: tuple[PeerId, ...]) -> str:
    """Mosquitto's ACL file: %u is the name in the client's certificate."""
    everybody = "pattern write fm/up/%u/#\npattern read fm/down/%u/#\npattern read fm/all/#\n"
    rules = "topic read fm/up/#\ntopic write fm/down/#\ntopic write fm/all"
    return everybody + "".join(f"\nuser {name}\n{rules}/{name}/#\n" for name in coordinators)
