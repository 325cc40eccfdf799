"""Conversations with an issuer over TLS 1.3: its hello, one request, one reply, each in a frame, and it is over.

The issuer asks for a certificate and does without one, for who enrols has none yet. It speaks first, when it has looked
at what was shown; until then nothing is sent. Each conversation has ten seconds.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedmesh.errors import ConfigError, DecodeError, FedMeshError, IdentityError, PeerError
from fedmesh.identity import Membership, Peer, check_peer, due
from fedmesh.identity.certificates import new_key
from fedmesh.identity.keyfiles import write_key_and_chain
from fedmesh.identity.membership import LISTS_REQUEST
from fedmesh.identity.requests import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Hello, read_reply, refusal
from fedmesh.transport.framing import read_frame, write_frame
from fedmesh.transport.tls import accepting, connected, dialling, peer_leaf, pinning

if TYPE_CHECKING:  # a device that renews its certificate needs nothing of an issuer, nor of an enrolment
    from fedmesh.identity import Enrolment, Issuer, Token

__all__ = ["IssuerServer", "enrol", "fetch_lists", "renew"]

TIMEOUT_S = 10.0
_HELLO_BYTES = 32 << 10
_Request = Callable[[Hello, bytes], bytes]
_log = logging.getLogger(__name__)


class IssuerServer:
    """An issuer that listens.

    Args:
        issuer: who answers.
        folder: where its own certificate for TLS is written (``serving.pem``, 0600), and the root is (``root.pem``).
        clock: seconds since 1970.
        timeout_s: what a conversation may take after its handshake, which has ten seconds.
        most: conversations at a time; who comes beyond is hung up on.
        refresh_s: how often it is looked whether its own certificate is due.
    """

    def __init__(
        self,
        issuer: "Issuer",
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
        most: int = 64,
        refresh_s: float = 3_600.0,
    ) -> None:
        self.issuer = issuer
        self._clock, self._timeout_s, self._most = clock, timeout_s, most
        self._tls_path = folder / "serving.pem"
        self._key = new_key()
        self._make_leaf()
        self._context = accepting(self._tls_path, folder / "root.pem", required=False)
        self._server: asyncio.Server | None = None
        self._refresh_s = refresh_s
        self._refreshing: asyncio.Task[None] | None = None
        self._open = 0

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listens; returns where (for port 0, any). Raises: ConfigError: it cannot listen there."""
        try:
            self._server = await asyncio.start_server(
                self._converse, host, port, ssl=self._context, ssl_handshake_timeout=TIMEOUT_S
            )
        except OSError as error:
            raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error
        self._refreshing = asyncio.create_task(self._refresh())
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def serve(self) -> None:
        """Answers until it is cancelled."""
        assert self._server is not None, "start comes first"
        async with self._server:
            await self._server.serve_forever()

    async def aclose(self) -> None:
        """Stops listening; idempotent."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= self._most:
                async with asyncio.timeout(self._timeout_s):
                    await self._answer(reader, writer)
        except TimeoutError:
            _log.info("a conversation took more than %g s", self._timeout_s)
        except PeerError as error:
            _log.info("a conversation came to nothing: %s", error)
        except FedMeshError as error:
            _log.error("the issuer cannot answer: %s", error)
        finally:
            self._open -= 1
            await _closed(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = self._peer(peer_leaf(writer))
        except IdentityError as error:
            self.issuer.refused[error.code] += 1
            await write_frame(writer, refusal(error))
            raise
        hello = self.issuer.hello()
        await write_frame(writer, hello.to_bytes())
        request = await read_frame(reader, max_bytes=MAX_REQUEST_BYTES)
        await write_frame(writer, self.issuer.handle(request, peer, hello.nonce, self._clock()))

    def _peer(self, leaf: bytes | None) -> Peer | None:
        if leaf is None:
            return None
        authority = self.issuer.authority  # revocations: the issuer looks into its register
        return check_peer([leaf], authority=authority, expected=None, revocations=None, now=self._clock(), server=True)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                if due(self._leaf, self._clock()):
                    self._make_leaf()
                    self._context.load_cert_chain(self._tls_path)
            except FedMeshError as error:
                _log.error("the issuer's own certificate is not renewed: %s", error)

    def _make_leaf(self) -> None:
        self._leaf = self.issuer.own_leaf(self._key.public_key(), self._clock())
        write_key_and_chain(self._tls_path, self._key, self._leaf, self.issuer.certificate)


async def enrol(
    enrolment: "Enrolment",
    token: "Token",
    address: tuple[str, int],
    *,
    clock: Callable[[], float] = time.time,
    timeout_s: float = TIMEOUT_S,
) -> Membership:
    """Enrols, at the issuer that listens at `address`.

    Raises:
        PeerError: it cannot be reached, or the conversation broke off: trying again is safe.
        IdentityError: it is not the token's issuer, and was told nothing; or it refused.
        ConfigError: the folder cannot be written.
    """

    def request(hello: Hello, leaf: bytes) -> bytes:
        enrolment.check_issuer(hello, leaf, clock())
        return enrolment.request(token.secret, hello.nonce)

    return enrolment.finish(await _asked(address, pinning(), request, timeout_s), clock())


async def renew(
    membership: Membership,
    address: tuple[str, int],
    *,
    clock: Callable[[], float] = time.time,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Renews the certificate, and takes over the lists that come with it; an interrupted renewal leaves the old one.

    Raises:
        PeerError: as `enrol`, and when the issuer refused the certificate in the handshake.
        IdentityError: the certificate has expired, the issuer is not this mesh's, or it refused.
    """
    renewal = membership.renewal()

    def request(hello: Hello, leaf: bytes) -> bytes:
        membership.check_issuer(hello, leaf, clock())
        return renewal.request(hello.nonce)

    renewal.finish(await _asked_as(membership, address, request, clock(), timeout_s), clock())


async def fetch_lists(
    membership: Membership,
    address: tuple[str, int],
    *,
    clock: Callable[[], float] = time.time,
    timeout_s: float = TIMEOUT_S,
) -> bool:
    """Asks the issuer for roster and revocation list; returns whether one was newer. Raises: as `renew`."""

    def request(hello: Hello, leaf: bytes) -> bytes:
        membership.check_issuer(hello, leaf, clock())
        return LISTS_REQUEST

    reply = await _asked_as(membership, address, request, clock(), timeout_s)
    lists = read_reply(reply, {"roster", "revocations"})
    return membership.accept(clock(), roster=lists["roster"], revocations=lists["revocations"])


async def _asked_as(
    membership: Membership, address: tuple[str, int], request: _Request, clock: float, timeout_s: float
) -> bytes:
    if membership.expired(clock):
        raise IdentityError(f"the certificate of {membership.name.id!r} has expired: enrol anew", code="expired")
    context = dialling(membership.tls_path, membership.root_path)
    return await _asked(address, context, request, timeout_s)


async def _asked(address: tuple[str, int], context: ssl.SSLContext, request: _Request, timeout_s: float) -> bytes:
    """What the issuer at `address` replies to what `request` makes of its hello and its certificate."""
    reader, writer = await connected(*address, context, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            leaf = peer_leaf(writer)
            assert leaf is not None, "a TLS server shows a certificate"
            hello = Hello.from_bytes(await _hello(reader))
            await write_frame(writer, request(hello, leaf))
            return await read_frame(reader, max_bytes=MAX_REPLY_BYTES)
    except TimeoutError as error:
        raise PeerError(f"the issuer at {address[0]}:{address[1]} does not answer within {timeout_s:g} s") from error
    finally:
        await _closed(writer)


async def _hello(reader: asyncio.StreamReader) -> bytes:
    try:
        return await read_frame(reader, max_bytes=_HELLO_BYTES)
    except DecodeError:
        raise
    except PeerError as error:  # TLS 1.3: the first sign of a certificate that was refused
        raise PeerError("who listens there ended the connection without a hello: it refuses us, or is none") from error


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
