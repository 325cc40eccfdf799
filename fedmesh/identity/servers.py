"""A server's way in: its keys are made beside the authority, and its folder is like a device's, to be carried to it."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedmesh.errors import ConfigError
from fedmesh.files import write_atomically
from fedmesh.identity.certificates import new_key
from fedmesh.identity.chain import Authority
from fedmesh.identity.issuer import Issuer
from fedmesh.identity.membership import Membership, signing_key_path
from fedmesh.identity.names import Name

__all__ = ["create_server"]


def create_server(
    issuer: Issuer, name: str, hosts: Sequence[str], folder: Path, now: float, *, again: bool = False
) -> Membership:
    """Enrols the server `name`, dialled as `hosts`, in the new or empty `folder` (0700).

    Raises:
        ConfigError: a host is none, or there is something in the folder, or it cannot be written.
        IdentityError: ``name``; ``token``: the name is taken, and this is not to be done `again`.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty: a server's keys go into a folder of their own")
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
    key, signing = new_key(), Ed25519PrivateKey.generate()
    public = signing.public_key().public_bytes_raw()
    leaf = issuer.server(name, key.public_key(), public, hosts, now, again=again)
    write_atomically(signing_key_path(folder, name), signing.private_bytes_raw(), mode=0o600)
    roster, revocations = issuer.lists(now)
    answer = {
        "certificate": leaf.public_bytes(Encoding.DER),
        "issuer": issuer.certificate.public_bytes(Encoding.DER),
        "roster": roster,
        "revocations": revocations,
    }
    pinned = Authority(issuer.authority.root)
    return Membership.create(folder, Name(pinned.mesh, name), key, public, authority=pinned, answer=answer, now=now)
