"""A device's way in: keys made here, a request for the token's issuer, and the answer checked and kept.

Keys and request are on the disk before anything is sent, so a device that loses the answer, or its power, asks again
with the same keys and gets the same certificate. The files are in `fedmesh.identity.membership`.
"""

from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedmesh.errors import ConfigError, DecodeError, IdentityError
from fedmesh.files import write_atomically
from fedmesh.identity.certificates import fingerprint, new_key, parsed
from fedmesh.identity.chain import Authority, Peer, check_peer
from fedmesh.identity.keyfiles import key_pem, read_secret, read_signing_key
from fedmesh.identity.membership import Membership, begun, signing_key_path
from fedmesh.identity.names import CA, Name
from fedmesh.identity.requests import (
    MAX_REQUEST_BYTES,
    OFFLINE,
    Hello,
    proof,
    read_map,
    read_reply,
    signing_request,
)
from fedmesh.identity.tokens import Token
from fedmesh.wire import dumps, loads

__all__ = ["Enrolment", "offline_request"]

_PENDING = "enrolment.pending"


class Enrolment:
    """An enrolment that was begun in `folder`: who the device will be, and the root that it will believe.

    Raises:
        ConfigError: none was begun there, or the folder is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name, self._root, self._key, self._csr = _read_pending(folder / _PENDING)
        self._signing = read_signing_key(signing_key_path(folder, self.name.id))

    @classmethod
    def begin(cls, folder: Path, token: Token) -> Self:
        """Makes the keys in `folder` (0700), or takes up those of an enrolment of the same name that was interrupted.

        An Ed25519 key that is there is kept; the P-256 key is a new one.

        Raises:
            ConfigError: the folder cannot be written, is damaged, or is another device's.
        """
        path, pending = signing_key_path(folder, token.name.id), folder / _PENDING
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            others = [other.name for other in folder.glob("*.key") if other != path]
        except OSError as error:
            raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
        if others:
            raise ConfigError(f"{folder} is another device's, as {others[0]} shows: name a folder of its own")
        if not path.exists():
            write_atomically(path, Ed25519PrivateKey.generate().private_bytes_raw(), mode=0o600)
        if not pending.exists() or _read_pending(pending)[:2] != (token.name, token.root):
            key = new_key()
            content = [token.name.uri, token.root, key_pem(key), signing_request(token.name, key)]
            write_atomically(pending, dumps(content), mode=0o600)
        return cls(folder)

    def check_issuer(self, hello: Hello, leaf_der: bytes, now: float) -> Peer:
        """Whether hello and certificate are of the token's authority: to be asked before `request`.

        Raises:
            IdentityError: ``authority``: the root is not the token's; else as `check_peer`.
        """
        authority, chain = self._pinned(hello.root), [leaf_der, hello.issuer]
        present = begun(now, [authority.root, *map(parsed, chain)])
        return check_peer(chain, authority=authority, expected=CA, revocations=None, now=present, server=True)

    def request(self, secret: bytes, nonce: bytes) -> bytes:
        """What to send, to a checked issuer alone: the token's secret is in it."""
        return dumps({"kind": "enrol", "token": secret, **self._fields(nonce)})

    def offline(self) -> bytes:
        """What to carry to the issuer by hand. The token goes with it, not in it."""
        return dumps(self._fields(OFFLINE))

    def finish(self, reply: bytes, now: float) -> Membership:
        """Checks the issuer's answer and keeps it: the enrolment is over.

        Raises:
            IdentityError: the issuer refused (its code), or the answer is not what was asked for.
            ConfigError: the folder cannot be written.
        """
        answer = read_reply(reply, {"certificate", "issuer", "root", "roster", "revocations"})
        authority, public = self._pinned(answer["root"]), self._signing.public_key().public_bytes_raw()
        made = Membership.create(
            self._folder, self.name, self._key, public, authority=authority, answer=answer, now=now
        )
        (self._folder / _PENDING).unlink(missing_ok=True)
        return made

    def _pinned(self, root_der: bytes) -> Authority:
        root = parsed(root_der)
        if fingerprint(root) != self._root:
            raise IdentityError(
                "this is not the authority that the token is from, its root has another fingerprint: check the "
                "address; if it is right, somebody is in between",
                code="authority",
            )
        authority = Authority(root)
        if authority.mesh != self.name.mesh:
            raise IdentityError(f"the root is that of {authority.mesh!r}, not of {self.name.mesh!r}", code="authority")
        return authority

    def _fields(self, nonce: bytes) -> dict[str, Any]:
        return {
            "device": self.name.id,
            "csr": self._csr,
            "signing_key": self._signing.public_key().public_bytes_raw(),
            "proof": proof(self._signing, "enrol", nonce, self.name, self._csr),
        }

    def __repr__(self) -> str:
        return f"Enrolment({self.name})"


def offline_request(data: bytes, secret: bytes) -> bytes:
    """The request to the issuer, out of what a device wrote and the secret of the token that came with it.

    Raises:
        IdentityError: ``malformed``: a device did not write this.
    """
    fields = read_map(data, {"device", "csr", "signing_key", "proof"}, max_bytes=MAX_REQUEST_BYTES)
    return dumps({"kind": "enrol", "token": secret, **fields})


def _read_pending(path: Path) -> tuple[Name, bytes, ec.EllipticCurvePrivateKey, bytes]:
    if not path.exists():
        raise ConfigError(f"no enrolment was begun in {path.parent}: begin one with fedmesh enroll and a token")
    try:
        content = loads(read_secret(path), max_bytes=MAX_REQUEST_BYTES, max_depth=1)
        match content:
            case [str(uri), bytes(root), bytes(private), bytes(csr)]:
                key = load_pem_private_key(private, None)
                if isinstance(key, ec.EllipticCurvePrivateKey):
                    return Name.parse(uri), root, key, csr
    except (DecodeError, IdentityError, ValueError):
        pass
    raise ConfigError(f"{path} is damaged: remove it, and enrol again")
