"""Requests that need a certificate: not without one, not for another, not of the revoked, and not too often."""

from pathlib import Path

import pytest
from issuer_answers import granted, refused
from meshes import NOW, Mesh, der, leaf, peer_of

from fedmesh.identity.certificates import DAY_S, new_key
from fedmesh.identity.requests import proof, signing_request
from fedmesh.wire import dumps


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def test_what_needs_a_certificate_is_not_done_without(mesh):
    device = mesh.enrol()
    nonce = mesh.issuer.hello().nonce
    refused(mesh, dumps({"kind": "lists"}), "usage")
    refused(mesh, device.renewal().request(nonce), "usage", nonce=nonce)


def test_a_renewal_for_another_device(mesh):
    """Its own certificate, another's request; and a certificate without the Ed25519 key that belongs to it."""
    thief, victim = mesh.enrol("device-1"), mesh.enrol("device-2")
    nonce = mesh.issuer.hello().nonce
    refused(mesh, victim.renewal().request(nonce), "name", nonce=nonce, peer=peer_of(thief))
    csr = signing_request(victim.name, new_key())
    forged = proof(thief.signing_key(), "renew", nonce, victim.name, csr)
    refused(mesh, dumps({"kind": "renew", "csr": csr, "proof": forged}), "proof", nonce=nonce, peer=peer_of(victim))


def test_a_certificate_that_a_stolen_issuers_key_made_is_not_renewed(mesh):
    """Though its signature is right: the register does not have it."""
    device = mesh.enrol()
    nonce = mesh.issuer.hello().nonce
    for serial in (None, device.leaf.serial_number):
        forged = leaf(mesh.issuer.certificate, mesh.issuer_key(), serial=serial)
        peer = device.check([der(forged)], expected=None, clock=NOW)
        refused(mesh, device.renewal().request(nonce), "authority", nonce=nonce, peer=peer)


def test_a_revoked_device_is_told_nothing(mesh):
    device = mesh.enrol()
    peer, nonce = peer_of(device), mesh.issuer.hello().nonce
    mesh.issuer.revoke("device-1", NOW)
    refused(mesh, device.renewal().request(nonce), "revoked", nonce=nonce, peer=peer)
    refused(mesh, dumps({"kind": "lists"}), "revoked", peer=peer)
    again = mesh.enrol("device-1", again=True)
    refused(mesh, device.renewal().request(nonce), "revoked", nonce=nonce, peer=peer)
    granted(mesh, again.renewal().request(nonce), nonce, peer=peer_of(again))


def test_a_device_that_renews_in_a_loop(mesh):
    device = mesh.enrol()
    for _ in range(7):
        mesh.renew(device, now=NOW)
    nonce = mesh.issuer.hello().nonce
    refused(mesh, device.renewal().request(nonce), "limit", nonce=nonce, peer=peer_of(device))
    later = NOW + 15 * DAY_S
    fresh = mesh.enrol("device-1", again=True, now=NOW)
    assert fresh.due(later - 1)
