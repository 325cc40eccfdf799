"""Doors for real TLS on loopback: an issuer listens, a dialler hears what is said, an attacker makes a TLS file."""

import time
from contextlib import asynccontextmanager

from meshes import leaf

from fedmesh.identity.certificates import new_key, pem
from fedmesh.identity.keyfiles import key_pem
from fedmesh.transport.framing import read_frame
from fedmesh.transport.issuing import IssuerServer
from fedmesh.transport.tls import connected

HOST = "127.0.0.1"
LONG_S = 30.0


@asynccontextmanager
async def issuing(mesh, *, timeout_s=LONG_S, most=64):
    """The issuer's address, while it listens there."""
    server = IssuerServer(mesh.issuer, mesh.ca, timeout_s=timeout_s, most=most)
    address = await server.start(HOST, 0)
    try:
        yield address
    finally:
        await server.aclose()


async def said(address, context):
    """What the other end says first, or what the dialler finds instead."""
    reader, writer = await connected(*address, context, timeout_s=LONG_S)
    try:
        return await read_frame(reader, max_bytes=1 << 16)
    finally:
        writer.close()


def files(mesh, certificate, key, *chain):
    """A TLS file as an attacker would make it."""
    path = mesh.folder / f"{certificate.serial_number:x}.pem"
    path.write_bytes(key_pem(key) + pem(certificate, *(chain or [mesh.issuer.certificate])))
    return path


def forged(mesh, **options):
    """The file of a certificate that the mesh's issuer signed, of whatever kind."""
    key = new_key()
    options = {"begin": time.time() - 300, **options}
    return files(mesh, leaf(mesh.issuer.certificate, mesh.issuer_key(), key=key, **options), key)
