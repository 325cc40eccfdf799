"""How a peer announces itself on its links, and what it hears there."""

import math
import re
from dataclasses import dataclass

from fedmesh.errors import ConfigError

__all__ = ["MulticastOptions"]

_INSTANCE = re.compile(r"[0-9a-z](?:[0-9a-z-]{0,38}[0-9a-z])?")


@dataclass(frozen=True, slots=True)
class MulticastOptions:
    """The defaults suit a device in a mesh.

    Attributes:
        interfaces: names of those that are used; empty: all that are up, with or without a default route.
        instance: what everybody on the link reads as our name; empty: 16 hexadecimal digits, drawn at each start,
            and where somebody else has the name that is given.
        loopback: whether peers on this machine are looked for by 127.0.0.1, and that is announced.
        off_link: whether announced addresses that are on none of our links are tried; they are, where a reflector
            carries announcements from link to link. Then whoever can announce chooses what our devices knock at.
        interfaces_s: how often the interfaces are looked at.
        again_s: how often what is still announced is offered again.
        services: announcements that wait to be resolved; resolutions: at once; addresses: taken of each.

    Raises:
        ConfigError: one of them is out of range.
    """

    interfaces: tuple[str, ...] = ()
    instance: str = ""
    loopback: bool = False
    off_link: bool = False
    interfaces_s: float = 10.0
    again_s: float = 60.0
    services: int = 128
    resolutions: int = 4
    addresses: int = 8

    def __post_init__(self) -> None:
        times, counts = (self.interfaces_s, self.again_s), (self.services, self.resolutions, self.addresses)
        if not all(0 < each < math.inf for each in times) or not all(1 <= each <= 4096 for each in counts):
            raise ConfigError(
                f"multicast has interfaces_s, again_s = {times} and services, resolutions, addresses = {counts}: "
                "wanted times above 0, and counts from 1 to 4096"
            )
        if self.instance and _INSTANCE.fullmatch(self.instance) is None:
            raise ConfigError(
                f"{self.instance!r:.80} is no instance: wanted 1 to 40 of a-z, 0-9 and '-', with a letter or digit at "
                "both ends; or leave it out, and nobody on the network reads a name"
            )
