"""What we announce on a link, and what is taken from an announcement of somebody else. Pure; nothing in it is believed.

An announcement tells everybody in reach: that some device of fedmesh is here, where, and a tag that two devices of one
mesh share. It does not tell who: the instance is drawn by lot at each start, and the certificate is shown under TLS to
members alone. Whoever can guess the name of a mesh can verify the guess: the tag sorts, it hides nothing.
"""

import hashlib
import re
from collections.abc import Iterable

from fedmesh.mesh.discovery.addresses import Address, host_in, unusable
from fedmesh.mesh.discovery.interfaces import Surroundings

__all__ = ["MAX_TEXT_BYTES", "SERVICE", "instance_in", "properties_of", "refusal", "usable"]

SERVICE = "_fedmesh._tcp.local."
MAX_TEXT_BYTES = 256
_INSTANCE = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,38}[0-9A-Za-z])?")
_VERSION = b"1"


def instance_in(name: str) -> str:
    """The instance of a service's full name, in lower case as DNS compares; empty: it is none of ours.

    The type is compared letter by letter: zeroconf raises an error about one that is spelled otherwise.
    """
    instance = name[: -len(SERVICE) - 1]
    is_ours = name.endswith("." + SERVICE) and _INSTANCE.fullmatch(instance) is not None
    return instance.lower() if is_ours else ""


def properties_of(mesh: str) -> dict[bytes, bytes]:
    """What stands in our TXT record: the version of this format, and a tag of the mesh."""
    return {b"v": _VERSION, b"m": hashlib.sha256(b"fedmesh discovery\x00" + mesh.encode()).hexdigest()[:16].encode()}


def refusal(text: bytes, port: int | None, mesh: str) -> str:
    """Why an announcement is of no use, in one word; empty: it may be."""
    if len(text) > MAX_TEXT_BYTES:
        return "oversize"
    if not port or not 0 < port < 1 << 16:
        return "port"
    said = _properties_in(text)
    if said.get(b"v") != _VERSION:
        return "format"
    return "" if said.get(b"m") == properties_of(mesh)[b"m"] else "mesh"


def usable(
    hosts: Iterable[str], port: int, around: Surroundings, *, at_most: int, loopback: bool, off_link: bool
) -> tuple[list[Address], list[str]]:
    """Of the addresses that an announcement claims, those that can be tried, and why others cannot.

    Args:
        hosts: IP addresses, link-local ones with their scope.
        at_most: that are returned; those of our own links, where an announcement comes from, and numbers for scopes
            as names of interfaces, which outlive a restart.
        loopback: this machine will do. off_link: and so will addresses that are on none of our links.
    """
    names = {str(own.index): own.interface for own in around.own}
    found: list[Address] = []
    refused: list[str] = []
    for host in hosts:
        plain, _, scope = host.partition("%")
        address = (f"{plain}%{names.get(scope, scope)}" if scope else plain, port)
        why = unusable(address, loopback=loopback)
        if not why and not off_link and not around.on_link(address):
            why = "off_link"
        if why:
            refused.append(why)
        elif address not in found:
            found.append(address)
        if len(found) == at_most:
            break
    found.sort(key=lambda address: ("%" in address[0], getattr(host_in(address[0]), "version", 0)))
    return found, refused


def _properties_in(text: bytes) -> dict[bytes, bytes]:
    """Keys and values of a TXT record (RFC 6763, 6.4: of two equal keys the first counts), as far as it is whole."""
    said: dict[bytes, bytes] = {}
    at = 0
    while at < len(text) and at + text[at] < len(text):
        key, _, value = text[at + 1 : at + 1 + text[at]].partition(b"=")
        said.setdefault(key.lower(), value)
        at += 1 + text[at]
    return said
