"""Ed25519: the standard's vectors; rosters: what they pin and what they refuse."""

import copy
import pickle

import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.identity import Identity, Roster, verify
from fedmesh.wire import dumps

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
RFC_8032 = [  # 7.1, tests 1 to 3
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("private", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(private, public, message, signature):
    identity = Identity.from_private(bytes.fromhex(private))
    message = bytes.fromhex(message)
    assert identity.public.hex() == public
    assert identity.sign(message).hex() == signature
    assert verify(identity.public, bytes.fromhex(signature), message)
    assert not verify(identity.public, bytes.fromhex(signature), message + b"\0")


def test_nothing_else_verifies():
    identity = Identity.generate()
    signature = identity.sign(b"m")
    for place in range(64):
        altered = bytearray(signature)
        altered[place] ^= 1
        assert not verify(identity.public, bytes(altered), b"m")
    assert not verify(Identity.generate().public, signature, b"m")
    for public, other in (
        (b"", signature),
        (identity.public[:31], signature),
        (identity.public, b""),
        (b"\xff" * 32, signature),
        (None, signature),
        (identity.public, 7),
    ):
        assert not verify(public, other, b"m")


def test_a_signature_with_its_scalar_raised_by_the_order_is_refused():
    """RFC 8032 5.1.7: malleability."""
    order = 2**252 + 27742317777372353535851937790883648493
    identity = Identity.generate()
    signature = identity.sign(b"m")
    raised = int.from_bytes(signature[32:], "little") + order
    assert not verify(identity.public, signature[:32] + raised.to_bytes(32, "little"), b"m")


def test_identities_are_equal_by_their_public_key():
    identity = Identity.generate()
    again = Identity.from_private(identity.private_bytes())
    assert identity == again
    assert hash(identity) == hash(again)
    assert identity != Identity.generate()
    assert identity != identity.public


def test_an_identity_shows_and_spreads_nothing_private():
    identity = Identity.generate()
    assert repr(identity) == f"Identity({identity.public.hex()[:8]}…)"
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled"):
            spread(identity)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_private_key_has_32_bytes(length):
    with pytest.raises(SecAggError, match=f"32 bytes, not {length}") as refusal:
        Identity.from_private(bytes(length))
    assert refusal.value.code == "identity"


def keys(*names):
    return {name: Identity.generate().public for name in names}


def test_a_roster_pins_what_it_was_given():
    given = keys("b", "a", "aggregator")
    roster = Roster(given)
    wanted = dict(given)
    given.clear()
    assert {name: roster.key(name) for name in roster.names} == wanted
    assert roster.names == ("a", "aggregator", "b")
    assert len(roster) == 3
    assert "a" in roster
    assert "c" not in roster
    assert 7 not in roster
    assert roster.name_of(wanted["b"]) == "b"
    assert roster.name_of(Identity.generate().public) is None
    with pytest.raises(TypeError):
        roster.keys["c"] = bytes(32)
    with pytest.raises(AttributeError):
        roster.keys = {}


def test_rosters_are_facts():
    given = keys("a", "b")
    roster, again = Roster(given), Roster(dict(reversed(given.items())))
    assert roster == again
    assert hash(roster) == hash(again)
    assert roster.to_bytes() == again.to_bytes()
    assert roster != Roster(keys("a", "b"))
    for copied in (Roster.from_bytes(roster.to_bytes()), pickle.loads(pickle.dumps(roster)), copy.deepcopy(roster)):
        assert copied == roster
    assert repr(roster) == "Roster(2 names)"
    assert len(Roster({})) == 0


def test_golden_roster():
    """Operators keep rosters in files. Only added to, never edited."""
    roster = Roster({"ab": bytes.fromhex(RFC_8032[1][1]), "b": bytes.fromhex(RFC_8032[0][1])})
    assert roster.to_bytes().hex() == f"a2616258 20{RFC_8032[0][1]}62616258 20{RFC_8032[1][1]}".replace(" ", "")


def test_a_stranger_has_no_key():
    with pytest.raises(SecAggError, match="'c' is not on the roster of 2 names") as refusal:
        Roster(keys("a", "b")).key("c")
    assert refusal.value.code == "identity"


@pytest.mark.parametrize("name", ["", "x" * 201, 7, b"a", None])
def test_a_name_is_text_of_1_to_200_characters(name):
    with pytest.raises(SecAggError, match="1 to 200 characters") as refusal:
        Roster({name: Identity.generate().public})
    assert refusal.value.code == "identity"
    assert len(Roster(keys("x" * 200))) == 1


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "k" * 32, None, 5, bytearray(32)])
def test_a_key_is_32_bytes(key):
    with pytest.raises(SecAggError, match="the key of 'a' is 32 bytes") as refusal:
        Roster({"a": key})
    assert refusal.value.code == "identity"


def test_two_names_with_one_key_are_refused():
    given = keys("a", "b", "c")
    with pytest.raises(SecAggError, match="'b' and 'd' have the same key") as refusal:
        Roster({**given, "d": given["b"]})
    assert refusal.value.code == "identity"


def points_of_low_order():
    """Every point whose order divides eight: multiples of a point of order eight, found by clearing random points."""
    found, y = {}, 2
    while len(found) < 8:
        x = root((y * y - 1) * pow(D * y * y + 1, -1, P) % P)
        if x is not None:
            point = multiple(2**252 + 27742317777372353535851937790883648493, (x, y))
            for times in range(8):
                found[multiple(times, point)] = True
        y += 1
    return list(found)


def root(square):
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    return x if x * x % P == square else None


def add(a, b):
    cross = D * a[0] * b[0] * a[1] * b[1] % P
    return (
        (a[0] * b[1] + a[1] * b[0]) * pow(1 + cross, -1, P) % P,
        (a[1] * b[1] + a[0] * b[0]) * pow(1 - cross, -1, P) % P,
    )


def multiple(times, point):
    total = (0, 1)
    for bit in f"{times:b}":
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


def test_every_key_of_low_order_is_refused():
    points = points_of_low_order()
    assert len(points) == 8
    for x, y in points:
        for sign in (x & 1, 1 - (x & 1)):
            with pytest.raises(SecAggError, match="low order") as refusal:
                Roster({"a": (y | sign << 255).to_bytes(32, "little")})
            assert refusal.value.code == "identity"


@pytest.mark.parametrize("number", [P, P + 1, P + 3, 2**255 - 1, 2**256 - 1])
def test_a_second_spelling_of_a_key_is_refused(number):
    with pytest.raises(SecAggError, match="not canonical"):
        Roster({"a": number.to_bytes(32, "little")})


def test_nothing_verifies_under_a_key_that_is_no_point():
    y = next(y for y in range(2, 100) if root((y * y - 1) * pow(D * y * y + 1, -1, P) % P) is None)
    public = y.to_bytes(32, "little")
    for signature in (bytes(64), public + bytes(32), (1).to_bytes(32, "little") + bytes(32)):
        assert not verify(public, signature, b"m")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "malformed"),
        (b"\xff" * 40, "malformed"),
        (dumps([1, 2]), "malformed"),
        (dumps({"a": {"b": bytes(32)}}), "malformed"),
        (dumps({"a": [[1]]}), "malformed"),
        (dumps({1: bytes(32)}), "identity"),
        (dumps({"a": "k" * 32}), "identity"),
        (dumps({"a": Identity.from_private(bytes(32)).public}) + b"\0", "malformed"),
    ],
    ids=lambda v: None,
)
def test_what_is_no_roster_is_refused(data, code):
    with pytest.raises(SecAggError) as refusal:
        Roster.from_bytes(data)
    assert refusal.value.code == code


def test_a_roster_beyond_the_limit_is_not_read():
    data = Roster(keys("a", "b")).to_bytes()
    with pytest.raises(SecAggError, match="the limit is 10") as refusal:
        Roster.from_bytes(data, max_bytes=10)
    assert refusal.value.code == "malformed"
