"""What a hostile transport, or a hostile member, can do to packets: nothing that is not refused and counted."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.errors import IdentityError
from fedmesh.identity import Name
from fedmesh.identity.packets import MAX_LIFE_S, SKEW_S, Gate, Signet

NOW = 1_800_000_000.0
KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number, name in enumerate(["a", "b", "c"])}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}


def signet(name="a", mesh="home"):
    return Signet(Name(mesh, name), KEYS[name])


def gate(name="b", mesh="home", keys=PUBLIC):
    return Gate(Name(mesh, name), keys.get)


def sealed(**changes):
    told = {"now": NOW, "expires_in_s": 60.0, "fields": {"round": 3}, "parts": [b"first", b"second"]}
    return signet().seal("b", "hello", **{**told, **changes})


def refused(data, code, at=None, **told):
    at = gate() if at is None else at
    with pytest.raises(IdentityError) as error:
        at.open(data, **{"sender": "a", "now": NOW, **told})
    assert error.value.code == code
    assert at.counts[code] == 1


def test_what_was_sealed_is_what_is_opened():
    packet = gate().open(sealed(), sender="a", now=NOW + 1)
    assert (packet.kind, packet.sender, packet.fields) == ("hello", "a", {"round": 3})
    assert [bytes(part) for part in packet.parts] == [b"first", b"second"]
    assert (packet.sent, packet.expires) == (NOW, NOW + 60)


@given(st.data())
def test_no_byte_of_a_packet_can_be_changed(data):
    packet = bytearray(sealed())
    place = data.draw(st.integers(0, len(packet) - 1))
    packet[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IdentityError):
        gate().open(bytes(packet), sender="a", now=NOW)


@given(st.integers(0, 400))
def test_a_packet_that_is_cut_off_or_padded_is_refused(length):
    whole = sealed()
    for data in (whole[: min(length, len(whole) - 1)], whole + b"x" * (length + 1)):
        with pytest.raises(IdentityError):
            gate().open(data, sender="a", now=NOW)


def test_a_packet_is_taken_once():
    data, at = sealed(), gate()
    at.open(data, sender="a", now=NOW)
    refused(data, "replay", at)


def test_a_packet_under_another_name_is_refused():
    refused(sealed(), "proof", sender="c")
    refused(sealed(), "name", sender="d")


def test_a_packet_for_another_member_or_mesh_is_refused():
    refused(sealed(), "name", gate("c"))
    refused(sealed(), "name", gate(mesh="work"))


def test_a_member_that_left_the_roster_is_refused():
    refused(sealed(), "name", gate(keys={"b": PUBLIC["b"]}))


def test_parts_cannot_be_swapped_between_packets():
    one, other = sealed(), sealed(parts=[b"third", b"fourth"])
    refused(one[: -len(b"firstsecond")] + b"thirdfourth"[: len(b"firstsecond")], "proof")
    refused(one[:-11] + other[-11:], "proof")


def test_old_packets_and_those_from_the_future_are_refused():
    refused(sealed(), "expired", now=NOW + 61)
    refused(sealed(), "early", now=NOW - SKEW_S - 1)
    gate().open(sealed(), sender="a", now=NOW - SKEW_S + 1)


def test_one_sender_cannot_fill_the_memory_and_does_not_lock_out_the_next():
    at = gate()
    packets = [signet().seal("b", "x", now=NOW, expires_in_s=10) for _ in range(4097)]
    for packet in packets[:4096]:
        at.open(packet, sender="a", now=NOW)
    refused(packets[4096], "limit", at)
    at.open(signet("c").seal("b", "x", now=NOW, expires_in_s=10), sender="c", now=NOW)
    at.open(sealed(now=NOW + 11), sender="a", now=NOW + 11)  # the others have expired


@pytest.mark.parametrize(
    "impossible", [{"fields": {"x": "y" * 70_000}}, {"parts": [b""] * 1025}, {"expires_in_s": MAX_LIFE_S + 1}]
)
def test_what_cannot_be_opened_is_not_sealed(impossible):
    with pytest.raises(ValueError, match="at most"):
        sealed(**impossible)


def test_a_signet_does_not_show_its_key():
    assert repr(signet()) == "Signet(fedmesh://home/a)"


def test_the_bytes_of_a_packet_stay_as_they_are():
    """Golden: only a new format may change them."""
    packet = gate().open(GOLDEN, sender="a", now=NOW)
    assert (packet.kind, packet.id, packet.fields) == ("hello", bytes(16), {"round": 3})
    assert [bytes(part) for part in packet.parts] == [b"first", b"second"]
    assert len(sealed()) == len(GOLDEN)


GOLDEN = bytes.fromhex(
    "009eab626964500000000000000000000000000000000062746f61626466726f6d6161646b696e646568656c6c6f646d6573"
    "6864686f6d656473656e741b000001a3185c5000657061727473820506666469676573745820da83f63e1a473003712c18f5"
    "afc5a79044221943d1083c7c5a7ac7236d85e8d2666669656c6473a165726f756e640366666f726d61740167657870697265"
    "731b000001a3185d3a60b8470263aa86d14caf7e8d0b709950154b82b9e83662dd2c816009680f09438b5f0a555f099371fe"
    "b7dcf990266aa02665b7fdff34ce8b97af3f037d41eb6b0166697273747365636f6e64"
)
