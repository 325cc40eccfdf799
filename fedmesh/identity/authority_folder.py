"""The folder of a certificate authority: made whole or not at all, opened with what is online.

``root.key`` signs issuers and nothing else; it is made here and belongs somewhere else as soon as it is.
``issuer.key`` signs certificates and lists, ``issuers.pem`` has its certificate and those before it, the newest first.
"""

import secrets
import shutil
from pathlib import Path

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.files import sync_folder, write_atomically
from fedmesh.identity.certificates import issuer_certificate, new_key, pem, root_certificate
from fedmesh.identity.chain import Authority
from fedmesh.identity.issuer import DEFAULT_LIFE_S, Issuer
from fedmesh.identity.keyfiles import key_pem, read_certificates, read_key
from fedmesh.identity.register import Register

__all__ = ["ROOT_KEY", "create_authority", "open_authority", "open_issuer", "replace_issuer"]

ROOT_KEY = "root.key"
_ROOT, _ISSUER_KEY, _ISSUERS, _REGISTER = "root.pem", "issuer.key", "issuers.pem", "register.sqlite"


def create_authority(folder: Path, mesh: str, now: float, passphrase: bytes | None = None) -> None:
    """Makes the root, the first issuer and an empty register in `folder`, which must be new or empty.

    Args:
        folder: of mode 0700 afterwards, its keys 0600.
        mesh: what the mesh is called, in every certificate, for good.
        now: seconds since 1970.
        passphrase: for the root's key; None: none.

    Raises:
        ConfigError: there is something in the folder, or it cannot be written.
        IdentityError: ``name``: it is no name.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(
            f"{folder} is there and not empty: an authority is never made over another; name a new folder"
        )
    root_key, issuer_key = new_key(), new_key()
    root = root_certificate(mesh, root_key, now)
    issuer = issuer_certificate(issuer_key.public_key(), 1, root, root_key, now)
    building = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}")
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
    try:
        write_atomically(building / ROOT_KEY, key_pem(root_key, passphrase), mode=0o600)
        write_atomically(building / _ROOT, pem(root))
        write_atomically(building / _ISSUER_KEY, key_pem(issuer_key), mode=0o600)
        write_atomically(building / _ISSUERS, pem(issuer))
        Register.create(building / _REGISTER)
        sync_folder(building)
        building.rename(folder)  # over an empty folder, or none
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    sync_folder(folder.absolute().parent)


def open_authority(folder: Path) -> tuple[Authority, Register]:
    """The root with its issuers, and the register. Raises: ConfigError: there is no authority, or it is damaged."""
    if not (folder / _ROOT).exists():
        raise ConfigError(f"there is no authority in {folder}: name its folder, or make one with fedmesh ca init")
    root, *more = read_certificates(folder / _ROOT)
    issuers = read_certificates(folder / _ISSUERS)
    if more:
        raise ConfigError(f"{folder / _ROOT} holds {1 + len(more)} certificates, not one: put back a copy")
    return Authority(root, tuple(issuers)), Register(folder / _REGISTER)


def open_issuer(folder: Path, *, life_s: float = DEFAULT_LIFE_S) -> Issuer:
    """The issuer in `folder`, for certificates of `life_s`.

    Raises:
        ConfigError: there is no authority, it is damaged, or a key of it can be read by others.
        IdentityError: ``limit``.
    """
    authority, register = open_authority(folder)
    key = read_key(folder / _ISSUER_KEY)
    issuer = authority.issuers[0]
    if key.public_key() != issuer.public_key():
        raise ConfigError(f"{folder / _ISSUER_KEY} is not the key of {folder / _ISSUERS}: run fedmesh ca issuer")
    return Issuer(authority, issuer, key, register, life_s=life_s)


def replace_issuer(folder: Path, root_key: Path, now: float, passphrase: bytes | None = None) -> int:
    """Makes the next issuer, with a key of its own; returns its generation.

    Whoever hears of it believes older ones no longer.

    Raises:
        ConfigError: as `open_authority`, and when `root_key` is not the root's.
    """
    authority, _ = open_authority(folder)
    root, signer, key = authority.root, read_key(root_key, passphrase), new_key()
    if signer.public_key() != root.public_key():
        raise ConfigError(f"{root_key} is not the key of {folder / _ROOT}")
    generation = 1 + max(issuer.serial_number for issuer in authority.issuers)
    issuer = issuer_certificate(key.public_key(), generation, root, signer, now)
    try:
        authority.check_issuer(issuer, now)
    except IdentityError as error:
        raise ConfigError(f"the next issuer would not be believed: {error}") from error
    write_atomically(folder / _ISSUER_KEY, key_pem(key), mode=0o600)  # first: a crash in between is noticed, see above
    write_atomically(folder / _ISSUERS, pem(issuer, *authority.issuers))
    return generation
