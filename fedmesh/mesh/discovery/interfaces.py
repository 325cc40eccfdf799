"""The addresses of this machine, and what follows from them: what can be told to others, and what is on our links.

Not cached: interfaces come and go. Addresses that peers see us come from are not here: they are hearsay.
"""

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedmesh.errors import ConfigError
from fedmesh.mesh.discovery.addresses import Address, host_in, is_link_local, text_of

__all__ = ["Own", "Surroundings", "own_addresses"]

_MAX = 64
_SCOPES = 4


@dataclass(frozen=True, slots=True, order=True)
class Own:
    """An address of this machine.

    Attributes:
        ip: without a scope. prefix: how many bits its link shares.
        index, interface: number and name of the interface; both are good as a scope.
    """

    ip: str
    prefix: int
    index: int
    interface: str

    @property
    def is_link_local(self) -> bool:
        """Whether it is an IPv6 address that means something on its own link alone."""
        return ":" in self.ip and ipaddress.ip_address(self.ip).is_link_local

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is there."""
        return ipaddress.ip_address(self.ip).is_loopback


def own_addresses(only: Collection[str] = (), *, loopback: bool = False) -> tuple[Own, ...]:
    """Those that the interfaces have now, 64 at most, in a fixed order.

    Args:
        only: names of interfaces; empty: all.
        loopback: whether 127.0.0.1 and the like count.

    Raises:
        ConfigError: the system does not say.
    """
    import ifaddr

    try:
        found = [
            Own(ip.ip if isinstance(ip.ip, str) else ip.ip[0], ip.network_prefix, adapter.index or 0, adapter.name)
            for adapter in ifaddr.get_adapters()
            for ip in adapter.ips
            if not only or adapter.name in only
        ]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"the system does not tell its network interfaces: {error}") from error
    return tuple(sorted(own for own in found if loopback or not own.is_loopback)[:_MAX])


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the addresses of a machine say about others."""

    own: tuple[Own, ...]

    def announceable(self, port: int, *, at_most: int) -> list[str]:
        """What a member says of itself: addresses that mean something beyond a link first, link-local ones last."""
        wide = [own.ip for own in self.own if not own.is_link_local]
        narrow = [f"{own.ip}%{own.interface}" for own in self.own if own.is_link_local]
        return [text_of((host, port)) for host in [*wide, *narrow]][:at_most]

    def on_link(self, address: Address) -> bool:
        """Whether `address` is in the network of one of our interfaces; none of a link is its broadcast address."""
        found = host_in(address[0])
        if found is None:
            return False
        if found.version == 6 and found.is_link_local:
            scope = getattr(found, "scope_id", None)
            return any(own.is_link_local and scope in {str(own.index), own.interface} for own in self.own)
        for own in self.own:
            network = ipaddress.ip_network((own.ip, own.prefix), strict=False)
            if found.version == network.version and found in network:
                is_broadcast = found.version == 4 and own.prefix < 31 and found == network.broadcast_address
                return not is_broadcast
        return False

    def localized(self, address: Address) -> list[Address]:
        """`address` as it has to be dialled from here.

        The scope of a link-local address is a number of the machine that says it: on ours the same link has another,
        so it is tried on each link that we have, four at most.
        """
        if not is_link_local(address):
            return [address]
        links = dict.fromkeys(own.interface for own in self.own if own.is_link_local)
        plain = address[0].partition("%")[0]
        return [(f"{plain}%{link}", address[1]) for link in list(links)[:_SCOPES]]

    def is_own(self, address: Address, ports: Sequence[int]) -> bool:
        """Whether that is this very process."""
        found = host_in(address[0])
        if found is None or address[1] not in ports:
            return False
        return any(
            ipaddress.ip_address(own.ip) == ipaddress.ip_address(str(found).partition("%")[0]) for own in self.own
        )
