"""TLS 1.3 contexts for parties of a mesh, and what a handshake leaves to be checked.

A handshake proves that the other end has the key of its certificate, and no more: names, usages, revocation and, at the
dialling end, the time are `fedmesh.identity.check_peer`'s, which has to follow every one of them. Host names are not
compared: a party is who its URI says, wherever it listens. In TLS 1.3 a dialler is through before the other end has
looked at its certificate, so that end must speak first.
"""

import asyncio
import ssl
from pathlib import Path

from fedmesh.errors import ConfigError, PeerError
from fedmesh.transport.framing import told

__all__ = ["accepting", "connected", "dialling", "dialling_host", "peer_leaf", "pinning"]

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME (OpenSSL 1.1.0), for which ssl has no name


def dialling(tls_path: Path, root_path: Path) -> ssl.SSLContext:
    """For a party that dials, with key and chain in one file.

    OpenSSL knows no time floor, and a device's clock may be decades back: the times are left to `check_peer`.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= _NO_CHECK_TIME
    return _loaded(context, root_path, tls_path)


def dialling_host(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For a party that dials a server by the host name in its certificate, as an MQTT broker: OpenSSL checks all of it.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca, certificate, key)


def pinning() -> ssl.SSLContext:
    """For a device that has nothing but a token: whatever certificate comes is let through.

    `Enrolment.check_issuer` decides whether it is the right one before anything is sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def accepting(tls_path: Path, root_path: Path, *, required: bool, times: bool = True) -> ssl.SSLContext:
    """For a party that is dialled; `required`: nobody comes in without a certificate of this root.

    Without `times` those of a certificate are left to `check_peer`, as in `dialling`: a device's clock may be anything.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    if not times:
        context.verify_flags |= _NO_CHECK_TIME
    context.num_tickets = 0  # a resumed session would not show its certificate again
    return _loaded(context, root_path, tls_path)


def peer_leaf(writer: asyncio.StreamWriter) -> bytes | None:
    """DER of the certificate that the other end showed, or None."""
    tls = writer.get_extra_info("ssl_object")
    shown: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    return shown


async def connected(
    host: str, port: int, context: ssl.SSLContext, *, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection after its handshake. Raises: PeerError: nobody is there, or the handshake failed."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.open_connection(host, port, ssl=context)
    except TimeoutError as error:
        raise PeerError(f"{host}:{port} does not answer within {timeout_s:g} s") from error
    except ssl.SSLError as error:
        raise PeerError(f"the TLS handshake with {host}:{port} failed: {error.reason or error}") from error
    except OSError as error:
        raise PeerError(f"cannot connect to {host}:{port}: {told(error)}") from error


def _loaded(context: ssl.SSLContext, ca: Path, certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """`context` for TLS 1.3; without a `key` of its own it is in the file of the certificate."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use the certificate {certificate} with the key {key or certificate} and the CA {ca}: {told(error)}"
        ) from error
    return context
