"""Addresses as text, and which of those that somebody claims are worth a connection.

``10.0.0.5:7946``, ``gate-1.example:7946`` or ``[fe80::1%eth0]:7946``, as a member's own statements spell them.
"""

import ipaddress
import re

from fedmesh.errors import ConfigError
from fedmesh.identity.names import is_id

__all__ = ["Address", "address_in", "host_in", "is_link_local", "is_numeric", "seed_in", "text_of", "unusable"]

Address = tuple[str, int]
"""Host (a name, IPv4, or IPv6 with a scope where it needs one) and port."""

_HOST = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,251}[0-9A-Za-z])?\.?")
_SCOPE = re.compile(r"[0-9A-Za-z_.-]{1,15}")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_in(text: str) -> Address:
    """What `text` spells.

    Raises:
        ConfigError: it is no address: host and port, and an IPv6 address in brackets.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    is_host = (":" in host and is_numeric(host)) if bracketed else _HOST.fullmatch(host) is not None
    if not colon or not is_host or not 0 < number < 1 << 16:
        raise ConfigError(f"{text!r:.120} is no address: wanted HOST:PORT, or [IPV6]:PORT, with a port from 1 to 65535")
    return host, number


def seed_in(text: str) -> tuple[str, Address]:
    """Name and address of a seed, ``name@host:port``. Raises: ConfigError: it is none."""
    name, at, address = text.partition("@")
    if not at or not is_id(name):
        raise ConfigError(f"{text!r:.120} is no seed: wanted NAME@HOST:PORT, e.g. gate-1@10.0.0.1:7946")
    return name, address_in(address)


def text_of(address: Address) -> str:
    """``address_in(text_of(a)) == a``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_in(host: str) -> _IP | None:
    """The IP address that `host` is, a mapped one as the IPv4 address that it stands for; None for a name."""
    plain, percent, scope = host.partition("%")
    if percent and (_SCOPE.fullmatch(scope) is None or ":" not in plain):
        return None
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_numeric(host: str) -> bool:
    """Whether no resolver has to be asked for `host`."""
    return host_in(host) is not None


def unusable(address: Address, *, loopback: bool = False) -> str:
    """Why nobody can be at this address, whoever says it: one word, or empty.

    Args:
        address: numeric.
        loopback: whether this machine itself will do (several peers on one machine).
    """
    found = host_in(address[0])
    if found is None:
        return "host"
    reasons = {
        "port": not 0 < address[1] < 1 << 16,
        "loopback": found.is_loopback and not loopback,
        "multicast": found.is_multicast or found == _BROADCAST,
        "unspecified": found.is_unspecified or (found.version == 4 and int(found) >> 24 == 0),
        "scope": is_link_local(address) and "%" not in address[0],
    }
    return next((why for why, is_so in reasons.items() if is_so), "")


def is_link_local(address: Address) -> bool:
    """Whether it is an IPv6 address that means something on one link alone, and needs a scope to be dialled."""
    found = host_in(address[0])
    return found is not None and found.version == 6 and found.is_link_local
