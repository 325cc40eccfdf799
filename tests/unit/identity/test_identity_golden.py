"""Bytes that were once sent, signed or kept: only added to, never edited."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmesh.errors import IdentityError
from fedmesh.identity import Name, TimeFloor, Token
from fedmesh.identity.lists import Enrolled, Header, _signed, revocations_body, roster_body
from fedmesh.identity.membership import LISTS_REQUEST
from fedmesh.identity.requests import Hello, proof, refusal
from fedmesh.identity.tokens import secret_hash

NAME = Name("home", "device-1")
HEADER = Header("home", 1_800_000_000, 1_800_000_000, 1_800_604_800)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


def test_a_token():
    text = "fedmesh-hWRob21laGRldmljZS0xUAABAgMEBQYHCAkKCwwNDg9YIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fZ2NhOjc0NDM"
    assert Token(NAME, bytes(range(16)), bytes(range(32)), "ca:7443").text == text
    assert secret_hash(bytes(range(16))).hex() == "1f388cdeb1bd90cbe9b2c1daa1f290df5c04060958cd5aee40b3722d23216c61"


def test_a_hello_a_request_and_a_refusal():
    assert Hello("home", bytes(range(32)), b"root", b"issuer").to_bytes().hex() == (
        "a5646d65736864686f6d6564726f6f7444726f6f74656e6f6e63655820000102030405060708090a0b0c0d0e0f1011121314"
        "15161718191a1b1c1d1e1f66697373756572466973737565726870726f746f636f6c706665646d6573682d6973737565722f"
        "31"
    )
    assert LISTS_REQUEST.hex() == "a1646b696e64656c69737473"
    assert refusal(IdentityError("no", code="token")).hex() == "a263776879626e6f677265667573656465746f6b656e"


def test_a_proof_of_possession():
    """Ed25519 signs alike every time."""
    assert proof(KEY, "enrol", bytes(range(32)), NAME, b"csr").hex() == (
        "c793082ea1fc308ce964c48febd5fd40bfe51a53b9bd0e08b8d9ce8926fe9219233df0336814f9a15962e9ba491819299570"
        "0c0ef6fb60d36d73e015c8ba310d"
    )


def test_lists():
    assert roster_body(HEADER, {"device-1": Enrolled(PUBLIC, 7, bytes(32))}).hex() == (
        "a6646d65736864686f6d6566666f726d6174706665646d6573682d726f737465722f31666973737565641a6b49d200676465"
        "76696365738184686465766963652d31582003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
        "5400000000000000000000000000000000000000075820000000000000000000000000000000000000000000000000000000"
        "00000000006776657273696f6e1a6b49d2006b6e6578745f7570646174651a6b530c80"
    )
    rights = Enrolled(PUBLIC, 7, bytes(32), frozenset({"runs"}))
    assert roster_body(HEADER, {"device-1": rights}).hex() == (
        "a6646d65736864686f6d6566666f726d6174706665646d6573682d726f737465722f31666973737565641a6b49d200676465"
        "76696365738185686465766963652d31582003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
        "5400000000000000000000000000000000000000075820000000000000000000000000000000000000000000000000000000"
        "0000000000816472756e736776657273696f6e1a6b49d2006b6e6578745f7570646174651a6b530c80"
    )
    assert revocations_body(HEADER, {7: "device-1"}).hex() == (
        "a6646d65736864686f6d6566666f726d6174756665646d6573682d7265766f636174696f6e732f31666973737565641a6b49"
        "d200677265766f6b65648182540000000000000000000000000000000000000007686465766963652d316776657273696f6e"
        "1a6b49d2006b6e6578745f7570646174651a6b530c80"
    )
    assert _signed(b"body") == b"fedmesh signed list\x00body"


def test_a_time_floor(tmp_path):
    TimeFloor.create(tmp_path / "floor", 1_800_000_000).now(1_800_003_600)
    assert (tmp_path / "floor").read_bytes().hex() == "83746665646d6573682d74696d652d666c6f6f722f311a6b49d2001a6b49e010"
