"""The online issuer: a request and who sent it -> a reply, and the few things that an operator asks of it.

Sans-IO but for the register. The rules: a token is used once, for the device that it names, before it expires; the
same device may ask again with the same token and the same keys, for its first answer may be lost. A certificate is
renewed by who shows it in a handshake, has the Ed25519 key of the roster, and stands in the register, which a
certificate that somebody else made with a stolen issuer's key does not.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedmesh.errors import IdentityError
from fedmesh.identity.certificates import DAY_S, digest, fingerprint, hosts_of, leaf_certificate
from fedmesh.identity.chain import Authority, Peer
from fedmesh.identity.lists import RIGHTS, Enrolled, Header, revocations_body, roster_body, sign
from fedmesh.identity.names import CA, Name, checked_id
from fedmesh.identity.register import Certified, ListRow, Party, Register, Rows, TokenRow
from fedmesh.identity.requests import (
    MAX_REQUEST_BYTES,
    NONCE_BYTES,
    OFFLINE,
    Hello,
    checked_csr,
    checked_proof,
    read_map,
    refusal,
)
from fedmesh.identity.tokens import SECRET_BYTES, Token, secret_hash
from fedmesh.wire import dumps

__all__ = ["DEFAULT_LIFE_S", "Issuer"]

DEFAULT_LIFE_S = 14 * DAY_S
_SHORTEST_S, _LONGEST_S = 7 * DAY_S, 30 * DAY_S
_LIST_LIFE_S = 7 * DAY_S
_LIST_REFRESH_S = 3_600
_log = logging.getLogger(__name__)
_MOST_CERTIFICATES = 8  # of one party at a time; more is a device that renews in a loop


class Issuer:
    """An issuer with its key and its register.

    Attributes:
        authority: the root, this issuer and those before it.
        refused: how many requests were refused, by code.

    Raises:
        IdentityError: ``limit``: certificates are to live 7 to 30 days.
    """

    def __init__(
        self,
        authority: Authority,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        register: Register,
        *,
        life_s: float = DEFAULT_LIFE_S,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not _SHORTEST_S <= life_s <= _LONGEST_S:
            raise IdentityError(f"a certificate lives 7 to 30 days, not {life_s / DAY_S:g}", code="limit")
        self.authority = authority
        self.certificate = certificate
        self.refused: Counter[str] = Counter()
        self._key, self._register, self._life_s, self._random = key, register, life_s, random

    def hello(self) -> Hello:
        """How a conversation begins; its nonce goes to `handle`, once."""
        root, issuer = (item.public_bytes(Encoding.DER) for item in (self.authority.root, self.certificate))
        return Hello(self.authority.mesh, self._random(NONCE_BYTES), root, issuer)

    def handle(self, request: bytes, peer: Peer | None, nonce: bytes, now: float) -> bytes:
        """The reply, whatever came.

        Args:
            request: at most `MAX_REQUEST_BYTES`.
            peer: whose certificate was checked in the handshake (revocations are looked up here); None: none was shown.
            nonce: of this conversation's hello; `OFFLINE` for a request that was carried by hand.
            now: seconds since 1970.
        """
        try:
            return dumps(self._handled(request, peer, nonce, now))
        except IdentityError as error:
            self.refused[error.code] += 1
            _log.info("refused (%s): %s", error.code, error)
            return refusal(error)

    def _handled(self, request: bytes, peer: Peer | None, nonce: bytes, now: float) -> dict[str, Any]:
        content = read_map(request, None, max_bytes=MAX_REQUEST_BYTES)
        match content.get("kind"):
            case "enrol":
                return self._enrol(_fields(content, "device", "token", "csr", "signing_key", "proof"), nonce, now)
            case "renew":
                return self._renew(_fields(content, "csr", "proof"), peer, nonce, now)
            case "lists":
                _fields(content)
                with self._register.reading() as rows:
                    self._known(rows, peer, now)
                return self._with_lists({}, now)
            case _:
                raise IdentityError("a request is to enrol, to renew or for the lists", code="malformed")

    def _enrol(self, asked: Mapping[str, Any], nonce: bytes, now: float) -> dict[str, Any]:
        name = Name(self.authority.mesh, checked_id(asked["device"]))
        if not isinstance(asked["token"], bytes) or len(asked["token"]) != SECRET_BYTES:
            raise IdentityError("a token's secret is 16 bytes", code="malformed")
        key = checked_csr(asked["csr"], name)
        signing_key = checked_proof(
            asked["signing_key"], asked["proof"], kind="enrol", nonce=nonce, name=name, csr=asked["csr"]
        )
        with self._register.writing() as rows:
            token = _usable(rows.token(secret_hash(asked["token"])), name, now)
            if token.used is not None:
                leaf = _first_answer(rows, token, key, signing_key, now)
            else:
                leaf = self._enrolled(rows, name, key, signing_key, now, again=token.again)
                rows.use_token(token.hash, leaf.serial_number, now)
        _log.info("enrolled %s", name)
        return self._with_lists(self._certificate(leaf), now)

    def _enrolled(
        self,
        rows: Rows,
        name: Name,
        key: ec.EllipticCurvePublicKey,
        signing_key: bytes,
        now: float,
        *,
        again: bool,
        hosts: Sequence[str] | None = None,
    ) -> x509.Certificate:
        """Makes `name` a party, a server if it has `hosts`."""
        if rows.party(name.id) is not None and not again:
            raise IdentityError(f"{name.id!r} is enrolled already: a new token has to say --again", code="token")
        if rows.owner_of(signing_key) not in {None, name.id}:
            raise IdentityError("another party has this Ed25519 key: make one of your own", code="key")
        rows.revoke_certificates(name.id, now)
        rows.put_party(Party(name.id, signing_key, hosts is not None, int(now), None))
        return self._issued(rows, name, key, now, hosts or ())

    def _renew(self, asked: Mapping[str, Any], peer: Peer | None, nonce: bytes, now: float) -> dict[str, Any]:
        if nonce == OFFLINE:
            raise IdentityError("a certificate is renewed in a conversation", code="request")
        with self._register.writing() as rows:
            party, shown = self._known(rows, peer, now)
            name = Name(self.authority.mesh, party.id)
            key = checked_csr(asked["csr"], name)
            checked_proof(party.signing_key, asked["proof"], kind="renew", nonce=nonce, name=name, csr=asked["csr"])
            alive = [row for row in rows.certificates(party.id) if row.not_after >= now]
            if len(alive) >= _MOST_CERTIFICATES:
                raise IdentityError(f"{party.id!r} has {len(alive)} certificates: wait until some expire", code="limit")
            leaf = self._issued(rows, name, key, now, hosts_of(x509.load_der_x509_certificate(shown.der)))
        _log.info("renewed %s", name)
        return self._with_lists(self._certificate(leaf), now)

    def _known(self, rows: Rows, peer: Peer | None, now: float) -> tuple[Party, Certified]:
        """The party behind a handshake and the certificate that it showed, both in force."""
        if peer is None:
            raise IdentityError("this needs a certificate, and none was shown in the handshake", code="usage")
        shown, party = rows.certified(peer.serial), rows.party(peer.name.id)
        if shown is None or party is None or shown.id != party.id or digest(shown.der) != peer.fingerprint:
            raise IdentityError(f"this issuer did not make the certificate of {peer.name.id!r}", code="authority")
        if party.revoked is not None or shown.revoked is not None:
            raise IdentityError(f"the certificate of {party.id!r} is revoked", code="revoked")
        if now > shown.not_after:
            raise IdentityError(f"the certificate of {party.id!r} has expired: enrol anew", code="expired")
        return party, shown

    def _issued(
        self, rows: Rows, name: Name, key: ec.EllipticCurvePublicKey, now: float, hosts: Sequence[str]
    ) -> x509.Certificate:
        spki = _key_digest(key)
        if rows.holder_of(spki) not in {None, name.id}:
            raise IdentityError("another party has this P-256 key: make one of your own", code="key")
        leaf = leaf_certificate(name, key, self.certificate, self._key, now=now, life_s=self._life_s, hosts=hosts)
        end = int(leaf.not_valid_after_utc.timestamp())
        rows.add_certificate(Certified(leaf.serial_number, name.id, leaf.public_bytes(Encoding.DER), spki, end, None))
        return leaf

    def _certificate(self, leaf: x509.Certificate) -> dict[str, Any]:
        certificates = {"certificate": leaf, "issuer": self.certificate, "root": self.authority.root}
        return {what: item.public_bytes(Encoding.DER) for what, item in certificates.items()}

    def _with_lists(self, reply: dict[str, Any], now: float) -> dict[str, Any]:
        roster, revocations = self.lists(now)
        return {**reply, "roster": roster, "revocations": revocations}

    def lists(self, now: float) -> tuple[bytes, bytes]:
        """The signed roster and the signed revocation list; new ones when what they say has changed, and each hour."""
        with self._register.writing() as rows:
            rights = rows.rights()
            enrolled = {
                party.id: Enrolled(
                    party.signing_key, newest.serial, digest(newest.der), rights.get(party.id, frozenset())
                )
                for party, newest in rows.parties()
                if party.revoked is None and newest is not None
            }
            revoked = rows.revoked(now)
            return (
                self._signed_list(rows, "roster", lambda header: roster_body(header, enrolled), now),
                self._signed_list(rows, "revocations", lambda header: revocations_body(header, revoked), now),
            )

    def _signed_list(self, rows: Rows, kind: str, body: Callable[[Header], bytes], now: float) -> bytes:
        content = digest(fingerprint(self.certificate) + body(Header(self.authority.mesh, 0, 0, 0)))
        last = rows.list_row(kind)
        if last is not None and last.content == content and now < last.issued + _LIST_REFRESH_S:
            return last.signed
        issued = int(now) if last is None else max(int(now), last.issued)
        next_version = 1 if last is None else last.version + 1
        version = max(issued, next_version)  # beyond those, too, that an authority put back from a copy has forgotten
        made = body(Header(self.authority.mesh, version, issued, issued + _LIST_LIFE_S))
        signed = sign(made, self.certificate, self._key)
        rows.put_list(ListRow(kind, version, issued, content, signed))
        return signed

    def token(self, device: str, now: float, *, ttl_s: float, again: bool = False, address: str = "") -> Token:
        """A token for `device`; those that it had are void.

        Raises:
            IdentityError: ``name``; ``token``: the device is known, and the token is not to replace it.
        """
        name, secret = _party_name(self.authority.mesh, device), self._random(SECRET_BYTES)
        with self._register.writing() as rows:
            if rows.party(device) is not None and not again:
                raise IdentityError(
                    f"{device!r} is enrolled, or was: with --again its next enrolment revokes what it has", code="token"
                )
            rows.prune(now)
            rows.drop_tokens(device)
            rows.add_token(TokenRow(secret_hash(secret), device, int(now + ttl_s), again, None, None))
        return Token(name, secret, fingerprint(self.authority.root), address)

    def grant(self, device: str, right: str, *, take_back: bool = False) -> None:
        """Gives `device` one of `RIGHTS`, or takes all back; the next roster says so.

        Raises:
            IdentityError: ``name``: nobody is called so, or who is, is revoked; ``request``: there is no such right.
        """
        if right not in RIGHTS:
            raise IdentityError(f"{right!r:.80} is no right: there are {', '.join(RIGHTS)}", code="request")
        with self._register.writing() as rows:
            party = rows.party(device)
            if party is None or party.revoked is not None:
                raise IdentityError(f"nobody called {device!r:.80} is enrolled: see fedmesh ca list", code="name")
            if take_back:
                rows.take_rights(device)
            else:
                rows.give_right(device, right)

    def revoke(self, device: str, now: float) -> int:
        """Revokes the certificates of `device` and its tokens; returns how many certificates. It is on no roster then.

        Its rights are gone: enrolled again, it has none.

        Raises:
            IdentityError: ``name``: nobody is called so.
        """
        with self._register.writing() as rows:
            dropped, party = rows.drop_tokens(device), rows.party(device)
            rows.take_rights(device)
            if party is None and dropped:
                return 0
            if party is None:
                raise IdentityError(f"nobody called {device!r:.80} is enrolled: see fedmesh ca list", code="name")
            if party.revoked is None:
                rows.put_party(Party(party.id, party.signing_key, party.server, party.enrolled, int(now)))
            return rows.revoke_certificates(device, now)

    def server(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        signing_key: bytes,
        hosts: Sequence[str],
        now: float,
        *,
        again: bool,
    ) -> x509.Certificate:
        """A certificate for the server `name` at `hosts`, whose keys the operator made beside the authority.

        Raises:
            IdentityError: as for a token.
        """
        made_out = _party_name(self.authority.mesh, name)
        with self._register.writing() as rows:
            return self._enrolled(rows, made_out, key, signing_key, now, again=again, hosts=hosts)

    def own_leaf(self, key: ec.EllipticCurvePublicKey, now: float) -> x509.Certificate:
        """What this issuer shows in handshakes. It is on no list: its key lives as long as the process that serves."""
        name = Name(self.authority.mesh, CA)
        return leaf_certificate(name, key, self.certificate, self._key, now=now, life_s=_SHORTEST_S)


def _fields(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    if content.keys() != {"kind", *keys}:
        raise IdentityError(f"a request to {content['kind']} holds {sorted(keys)}", code="malformed")
    return content


def _usable(token: TokenRow | None, name: Name, now: float) -> TokenRow:
    if token is None:
        raise IdentityError("the token is unknown here: ask for another", code="token")
    if token.id != name.id:
        raise IdentityError(f"the token is not one for {name.id!r}", code="token")
    if now > token.expires:
        raise IdentityError("the token has expired: ask for another", code="token")
    return token


def _first_answer(
    rows: Rows, token: TokenRow, key: ec.EllipticCurvePublicKey, signing_key: bytes, now: float
) -> x509.Certificate:
    """The certificate that the token was used for, if the same device asks for it again."""
    party = rows.party(token.id)
    made = None if token.serial is None else rows.certified(token.serial)
    same = made is not None and made.key == _key_digest(key) and party is not None and party.signing_key == signing_key
    if made is None or not same or made.revoked is not None or now > made.not_after:
        raise IdentityError("the token was used already: ask for another", code="token")
    return x509.load_der_x509_certificate(made.der)


def _party_name(mesh: str, name: str) -> Name:
    if name == CA:
        raise IdentityError(f"{CA!r} is the authority's own name: choose another", code="name")
    return Name(mesh, name)


def _key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
