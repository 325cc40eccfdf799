"""Multicast DNS as somebody on the link can send it: real packets, whatever they claim."""

import socket
from collections.abc import Iterable, Sequence

from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSRecord, DNSService, DNSText

from fedmesh.mesh.discovery.records import SERVICE, properties_of

GROUP = ("224.0.0.251", 5353)
RESPONSE = 0x8400
IN, UNIQUE, PTR, TXT, SRV, A, AAAA = 1, 0x8001, 12, 16, 33, 1, 28
TTL_S = 1125


def text(mesh: str = "home", **more: bytes) -> bytes:
    items = [key + b"=" + value for key, value in properties_of(mesh).items()]
    items += [key.encode() + b"=" + value for key, value in more.items()]
    return b"".join(bytes([len(item)]) + item for item in items)


def announcement(
    instance: str,
    *,
    hosts: Sequence[str] = ("127.0.0.1",),
    port: int = 7946,
    txt: bytes | None = None,
    ttl: int = TTL_S,
    server: str = "",
) -> list[DNSRecord]:
    """What a peer announces: pointer, service, text and addresses."""
    name = f"{instance}.{SERVICE}"
    server = server or f"{instance}.local."
    records: list[DNSRecord] = [
        DNSPointer(SERVICE, PTR, IN, ttl, name),
        DNSService(name, SRV, UNIQUE, ttl, 0, 0, port, server),
        DNSText(name, TXT, UNIQUE, ttl, text() if txt is None else txt),
    ]
    return records + addresses(server, hosts, ttl=ttl)


def addresses(server: str, hosts: Iterable[str], *, ttl: int = TTL_S) -> list[DNSRecord]:
    return [
        DNSAddress(server, AAAA, UNIQUE, ttl, socket.inet_pton(socket.AF_INET6, host))
        if ":" in host
        else DNSAddress(server, A, UNIQUE, ttl, socket.inet_pton(socket.AF_INET, host))
        for host in hosts
    ]


def packets(records: Iterable[DNSRecord]) -> list[bytes]:
    out = DNSOutgoing(RESPONSE)
    for record in records:
        out.add_answer_at_time(record, 0)
    return out.packets()


class Liar:
    """Sends to the multicast group of an interface."""

    def __init__(self, interface: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))

    def send(self, *data: bytes) -> None:
        for each in data:
            self._socket.sendto(each, GROUP)

    def say(self, records: Iterable[DNSRecord]) -> None:
        self.send(*packets(records))

    def close(self) -> None:
        self._socket.close()
