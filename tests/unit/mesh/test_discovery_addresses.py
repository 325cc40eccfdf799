"""Addresses: what is one, which are worth a connection, and what our own interfaces say about others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.errors import ConfigError
from fedmesh.mesh.discovery import Surroundings, address_in, own_addresses, seed_in, text_of
from fedmesh.mesh.discovery.addresses import unusable
from fedmesh.mesh.discovery.interfaces import Own

LAN = Surroundings(
    (
        Own("10.0.0.5", 24, 2, "eth0"),
        Own("fd00::5", 64, 2, "eth0"),
        Own("fe80::5", 64, 2, "eth0"),
        Own("fe80::6", 64, 3, "wlan0"),
    )
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:7946", ("10.0.0.5", 7946)),
        ("gate-1.example:1", ("gate-1.example", 1)),
        ("[fd00::5]:65535", ("fd00::5", 65535)),
        ("[fe80::5%eth0]:7946", ("fe80::5%eth0", 7946)),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: tuple[str, int]) -> None:
    assert address_in(text) == address
    assert text_of(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "10.0.0.5", "10.0.0.5:", ":7946", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:-1", "10.0.0.5:+1", "host:٣",
        "fd00::5:7946", "[fd00::5]", "[10.0.0.5]:1", "[host]:1", "[fe80::5%]:1", "[fe80::5%a b]:1", "a b:1", "-a:1",
        "[fe80::5%eth0]:000001", "10.0.0.5%eth0:1", "h" * 300 + ":1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted HOST:PORT"):
        address_in(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_text_and_address_are_each_others_inverse(ip: object, port: int) -> None:
    assert address_in(text_of((str(ip), port))) == (str(ip), port)


def test_a_seed_has_a_name_that_the_certificate_must_have() -> None:
    assert seed_in("gate-1@[fd00::1]:7946") == ("gate-1", ("fd00::1", 7946))
    for text in ("10.0.0.1:7946", "@10.0.0.1:7946", "Gate@10.0.0.1:7946", "a@b@10.0.0.1:1"):
        with pytest.raises(ConfigError):
            seed_in(text)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("10.0.0.1", ""), ("8.8.8.8", ""), ("fd00::1", ""), ("fe80::1%eth0", ""), ("fe80::1%2", ""),
        ("127.0.0.1", "loopback"), ("127.9.9.9", "loopback"), ("::1", "loopback"), ("::ffff:127.0.0.1", "loopback"),
        ("224.0.0.251", "multicast"), ("255.255.255.255", "multicast"), ("ff02::fb", "multicast"),
        ("::ffff:224.0.0.1", "multicast"), ("0.0.0.0", "unspecified"), ("0.1.2.3", "unspecified"),
        ("::", "unspecified"), ("::ffff:0.0.0.0", "unspecified"), ("fe80::1", "scope"), ("gate.example", "host"),
    ],
)  # fmt: skip
def test_addresses_at_which_nobody_can_be(host: str, why: str) -> None:
    assert unusable((host, 7946)) == why


def test_a_port_is_a_number_that_one_can_call() -> None:
    assert unusable(("10.0.0.1", 0)) == unusable(("10.0.0.1", 65536)) == "port"
    assert unusable(("127.0.0.1", 1), loopback=True) == ""


@pytest.mark.parametrize(
    ("host", "is_near"),
    [
        ("10.0.0.77", True), ("10.0.1.77", False), ("10.0.0.255", False), ("8.8.8.8", False), ("fd00::99", True),
        ("fd01::99", False), ("fe80::99%eth0", True), ("fe80::99%3", True), ("fe80::99%eth9", False),
        ("fe80::99", False), ("::ffff:10.0.0.77", True), ("::ffff:8.8.8.8", False), ("gate", False),
    ],
)  # fmt: skip
def test_what_is_on_one_of_our_links(host: str, is_near: bool) -> None:
    assert LAN.on_link((host, 7946)) is is_near


def test_what_a_member_says_of_itself_begins_with_what_means_something_elsewhere() -> None:
    said = LAN.announceable(7946, at_most=3)
    assert said == ["10.0.0.5:7946", "[fd00::5]:7946", "[fe80::5%eth0]:7946"]
    assert [text_of(address_in(text)) for text in said] == said


def test_a_scope_of_somebody_elses_machine_is_tried_on_each_link_of_ours() -> None:
    assert LAN.localized(("fe80::9%7", 1)) == [("fe80::9%eth0", 1), ("fe80::9%wlan0", 1)]
    assert LAN.localized(("10.0.0.9", 1)) == [("10.0.0.9", 1)]
    assert LAN.localized(("gate", 1)) == [("gate", 1)]


def test_this_very_process_is_known() -> None:
    assert LAN.is_own(("10.0.0.5", 7946), [7946])
    assert LAN.is_own(("fe80::5%eth0", 7946), [7946])
    assert not LAN.is_own(("10.0.0.5", 7947), [7946])
    assert not LAN.is_own(("10.0.0.6", 7946), [7946])


def test_the_machine_says_its_addresses() -> None:
    everything = own_addresses(loopback=True)
    assert "127.0.0.1" in {own.ip for own in everything}
    assert not any(own.is_loopback for own in own_addresses())
    assert {own.interface for own in own_addresses(["lo"], loopback=True)} == {"lo"}
    assert own_addresses(["no-such-interface"]) == ()
