"""Certificates that a stranger, a member or a thief shows: each is refused, for its own reason."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from meshes import BOTH, NOW, Mesh, Uri, der, leaf, rogue

from fedmesh.errors import IdentityError
from fedmesh.identity import Authority, Revocations, check_peer, replace_issuer
from fedmesh.identity.certificates import DAY_S, issuer_certificate, new_key
from fedmesh.identity.keyfiles import read_key

DEVICE = Uri("fedmesh://home/device-1")


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def shown(mesh, certificate, *, now=NOW, expected="device-1", authority=None, chain=(), revocations=None, server=False):
    return check_peer(
        [der(certificate), *map(der, chain)],
        authority=authority or mesh.authority,
        expected=expected,
        revocations=revocations,
        now=now,
        server=server,
    )


def refused(mesh, certificate, code, **options):
    with pytest.raises(IdentityError) as caught:
        shown(mesh, certificate, **options)
    assert caught.value.code == code, caught.value


def made(mesh, **options):
    return leaf(mesh.issuer.certificate, mesh.issuer_key(), **options)


def test_the_template_of_these_forgeries_is_sound(mesh):
    """Else each would be refused for a reason that its test is not about."""
    peer = shown(mesh, made(mesh))
    assert (peer.name.mesh, peer.name.id, peer.generation) == ("home", "device-1", 1)


def test_unknown_authority(mesh):
    root, issuer, key = rogue()
    stranger = leaf(issuer, key)
    refused(mesh, stranger, "authority")
    refused(mesh, stranger, "authority", chain=[issuer])
    refused(mesh, stranger, "authority", chain=[issuer, root])
    assert shown(mesh, stranger, chain=[issuer], authority=Authority(root)).name.id == "device-1"


def test_an_issuers_name_and_key_identifier_are_not_its_signature(mesh):
    """Under our issuer's name and key identifier, signed by somebody else; and a byte of the signature changed."""
    refused(mesh, leaf(mesh.issuer.certificate, new_key()), "authority")
    changed = bytearray(der(made(mesh)))
    changed[-1] ^= 1
    with pytest.raises(IdentityError) as caught:
        check_peer([bytes(changed)], authority=mesh.authority, expected=None, revocations=None, now=NOW)
    assert caught.value.code in {"authority", "malformed"}


def test_a_device_is_no_authority(mesh):
    """A leaf signs a leaf, or is marked as an authority itself: the path has one issuer, of path length 0."""
    key = new_key()
    member = made(mesh, key=key)
    with pytest.raises(x509.ExtensionNotFound):
        member.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    grandchild = leaf(member, key)
    refused(mesh, grandchild, "authority", chain=[member])
    refused(mesh, grandchild, "authority", chain=[member, mesh.issuer.certificate])
    refused(mesh, made(mesh, is_ca=True), "usage")
    refused(mesh, mesh.issuer.certificate, "authority")
    refused(mesh, mesh.authority.root, "authority")


def test_the_root_signs_no_device(mesh):
    root_key = read_key(mesh.ca / "root.key")
    refused(mesh, leaf(mesh.authority.root, root_key), "authority", chain=[mesh.authority.root])


def test_expired(mesh):
    refused(mesh, made(mesh, begin=NOW - 15 * DAY_S), "expired")
    refused(mesh, made(mesh), "expired", now=NOW + 14 * DAY_S)


def test_not_yet_valid(mesh):
    refused(mesh, made(mesh, begin=NOW + 60), "early")
    refused(mesh, made(mesh), "early", now=NOW - 301)


def test_an_expired_issuer(mesh):
    refused(mesh, made(mesh, days=4_000), "expired", now=NOW + 3 * 365 * DAY_S + 1)


@pytest.mark.parametrize(
    "usages",
    [
        None,
        BOTH[:1],
        BOTH[1:],
        [*BOTH, ExtendedKeyUsageOID.CODE_SIGNING],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CODE_SIGNING],
    ],
)
def test_wrong_extended_key_usage(mesh, usages):
    refused(mesh, made(mesh, usages=usages), "usage")


@pytest.mark.parametrize(
    "names",
    [
        None,
        [x509.DNSName("device-1")],
        [DEVICE, Uri("fedmesh://home/device-2")],
        [DEVICE, DEVICE],
        [DEVICE, x509.RFC822Name("device-1@home")],
        [DEVICE, x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")],
        [DEVICE, x509.DNSName("broker.local")],
        [Uri("https://home/device-1")],
        [Uri("fedmesh://home/device-1/x")],
        [Uri("fedmesh://home/")],
        [Uri("fedmesh://home/Device-1")],
        [Uri("fedmesh://home/#")],
    ],
)
def test_missing_or_second_or_malformed_names(mesh, names):
    refused(mesh, made(mesh, names=names), "name")
    refused(mesh, made(mesh, names=names), "name", expected=None)


def test_host_names_are_a_servers(mesh):
    names = [Uri("fedmesh://home/broker"), x509.DNSName("broker.local")]
    broker = made(mesh, names=names, common="broker")
    refused(mesh, broker, "name", expected="broker")
    assert shown(mesh, broker, expected="broker", server=True).name.id == "broker"


def test_a_common_name_that_is_another(mesh):
    """A broker takes the common name for the user: it must be the name that everybody else goes by."""
    refused(mesh, made(mesh, common="device-2"), "name")


def test_another_peer_than_expected(mesh):
    refused(mesh, made(mesh), "peer", expected="coordinator")
    assert shown(mesh, made(mesh), expected=None).name.id == "device-1"


def test_a_name_of_another_mesh(mesh):
    refused(mesh, made(mesh, names=[Uri("fedmesh://elsewhere/device-1")]), "name")


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2_048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["RSA", "P-384", "Ed25519"],
)
def test_other_kinds_of_keys(mesh, key):
    refused(mesh, made(mesh, key=key), "key")


def test_a_critical_extension_that_nobody_knows(mesh):
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    refused(mesh, made(mesh, critical=unknown), "authority")


def test_revoked(mesh):
    device, other = mesh.enrol("device-1"), mesh.enrol("device-2")
    mesh.issuer.revoke("device-1", NOW)
    revocations = Revocations.verified(mesh.issuer.lists(NOW)[1], mesh.authority, NOW)
    refused(mesh, device.leaf, "revoked", revocations=revocations)
    assert shown(mesh, other.leaf, revocations=revocations, expected="device-2").name.id == "device-2"


def test_a_stale_list_is_a_warning_and_still_revokes(mesh):
    """A CRL that is overdue would refuse everybody: that is a way to stop a mesh by keeping a message back."""
    device, other = mesh.enrol("device-1"), mesh.enrol("device-2")
    mesh.issuer.revoke("device-1", NOW)
    revocations = Revocations.verified(mesh.issuer.lists(NOW)[1], mesh.authority, NOW)
    later = NOW + 8 * DAY_S
    assert not shown(mesh, other.leaf, revocations=revocations, expected="device-2").stale
    assert shown(mesh, other.leaf, revocations=revocations, expected="device-2", now=later).stale
    refused(mesh, device.leaf, "revoked", revocations=revocations, now=later)
    assert shown(mesh, other.leaf, expected="device-2").stale


def test_a_lost_issuers_key_is_worth_nothing_once_its_successor_is_known(mesh):
    thief = mesh.issuer_key()
    old = mesh.issuer.certificate
    replace_issuer(mesh.ca, mesh.ca / "root.key", NOW)
    new = issuer_certificate(new_key().public_key(), 2, mesh.authority.root, read_key(mesh.ca / "root.key"), NOW)
    forged = leaf(old, thief)
    before = Authority(mesh.authority.root).learn(old, NOW)
    assert shown(mesh, forged, authority=before).name.id == "device-1"
    after = before.learn(new, NOW)
    refused(mesh, forged, "authority", authority=after)
    refused(mesh, forged, "issuer", authority=after, chain=[old])
    with pytest.raises(IdentityError) as caught:
        after.learn(old, NOW)
    assert caught.value.code == "issuer"


def test_what_an_authority_learns(mesh):
    """The newest, also when an authority that was put back made another of the same generation."""
    root, root_key = mesh.authority.root, read_key(mesh.ca / "root.key")
    one = mesh.issuer.certificate
    two, other_two = (issuer_certificate(new_key().public_key(), 2, root, root_key, NOW) for _ in range(2))
    both = Authority(root, (two, one))
    assert both.learn(one, NOW) is both
    assert both.learn(two, NOW) is both
    assert Authority(root, (two,)).learn(one, NOW).issuers == (two,)
    known = Authority(root).learn(one, NOW).learn(two, NOW)
    assert (known.issuers, known.oldest) == ((two,), 2)
    assert known.learn(other_two, NOW).issuers == (other_two,)


def test_an_issuer_that_is_none(mesh):
    """Of another root, a leaf, the root itself, one whose key the root never signed."""
    _, stranger, _ = rogue()
    for item in (stranger, made(mesh), mesh.authority.root):
        with pytest.raises(IdentityError) as caught:
            mesh.authority.learn(item, NOW)
        assert caught.value.code == "authority"


@pytest.mark.parametrize("chain", [[], [b""], [b"x"], [bytes(9_000)], [b"0\x03\x02\x01\x00"]])
def test_what_is_no_certificate(mesh, chain):
    with pytest.raises(IdentityError) as caught:
        check_peer(chain, authority=mesh.authority, expected=None, revocations=None, now=NOW)
    assert caught.value.code == "malformed"


def test_a_long_chain_is_not_looked_at(mesh):
    with pytest.raises(IdentityError) as caught:
        check_peer([der(made(mesh))] * 4, authority=mesh.authority, expected=None, revocations=None, now=NOW)
    assert caught.value.code == "malformed"


def test_a_changed_byte_anywhere(mesh):
    """Whatever it makes of the certificate, it is refused, and by an error of ours."""
    whole = der(made(mesh))
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 + place % 255
        with pytest.raises(IdentityError):
            check_peer([bytes(changed)], authority=mesh.authority, expected=None, revocations=None, now=NOW)
