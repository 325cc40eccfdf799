"""A hardened mosquitto.conf and its access rules. docs/transport.md says why each setting is there.

Both files end with their own SHA-256: one that somebody has changed is not overwritten unknowingly.
"""

import hashlib
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.files import write_atomically
from fedmesh.identity.certificates import hosts_of
from fedmesh.identity.names import checked_id
from fedmesh.transport.limits import PACKET_BYTES
from fedmesh.transport.topics import access_rules

__all__ = ["BrokerSettings", "check_certificate", "configuration", "write_broker_files"]

_SEAL = "# sha256 of the lines above: "


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What differs from one broker to another.

    Attributes:
        name: by which clients connect; its certificate carries it.
        ca, certificate, key: PEM files. revoked: a CRL in PEM, or None.
        address: to listen at; empty for all.
        coordinators: names of those that may write to devices and read what they write.
        user: that Mosquitto becomes when root starts it; None for its own default, ``mosquitto``.
    """

    name: str
    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None
    port: int = 8883
    address: str = ""
    coordinators: tuple[str, ...] = ("coordinator",)
    user: str | None = None


def configuration(folder: Path, settings: BrokerSettings) -> str:
    """The mosquitto.conf of a broker in `folder`, unsealed."""
    lines = [
        f"# Mosquitto 2 for fedmesh, as {settings.name}. Written by `fedmesh broker config`.",
        "per_listener_settings false",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        f"acl_file {folder / 'acl'}",
        "",
        "set_tcp_nodelay true",
        "max_inflight_messages 64",
        "max_queued_messages 0",
        "max_queued_bytes 67108864",
        "queue_qos0_messages false",
        f"max_packet_size {PACKET_BYTES}",
        "memory_limit 1073741824",
        "max_keepalive 300",
        "",
        "persistence true",
        f"persistence_location {folder / 'data'}/",
        "autosave_interval 60",
        "persistent_client_expiration 14d",
        "retain_available true",
        "sys_interval 0",
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "connection_messages true",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        *([f"user {settings.user}"] if settings.user else []),
        "",
        f"listener {settings.port} {settings.address}".rstrip(),
        f"cafile {settings.ca}",
        f"certfile {settings.certificate}",
        f"keyfile {settings.key}",
        *([f"crlfile {settings.revoked}"] if settings.revoked else []),
        "tls_version tlsv1.3",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "max_connections 1024",
    ]
    return "\n".join(lines) + "\n"


def write_broker_files(folder: Path, settings: BrokerSettings, *, force: bool = False) -> Path:
    """Writes ``mosquitto.conf`` and ``acl`` into `folder`, and makes its ``data``. Returns the configuration's path.

    Args:
        folder: made if it is not there.
        settings: the broker.
        force: whether files that somebody has changed are overwritten.

    Raises:
        ConfigError: a name, path or certificate is unfit, or a file there was changed by hand.
    """
    folder = folder.absolute()
    try:
        names = tuple(checked_id(name, "a coordinator") for name in settings.coordinators)
    except IdentityError as error:  # a ``+``, ``#`` or ``/`` would mean others' topics
        raise ConfigError(str(error)) from error
    if not 0 < settings.port < 1 << 16:
        raise ConfigError(f"{settings.port} is not a port: use 1 to 65535, 8883 is MQTT over TLS")
    for path in (folder, settings.ca, settings.certificate, settings.key, settings.revoked):
        _check_path(path)
    for word in (settings.address, settings.user or ""):
        if any(letter.isspace() for letter in word):
            raise ConfigError(f"{word!r} holds white space, which Mosquitto's configuration cannot carry")
    check_certificate(settings)
    written = {folder / "acl": access_rules(names), folder / "mosquitto.conf": configuration(folder, settings)}
    if not force and (changed := [path for path in written if _was_changed(path)]):
        raise ConfigError(
            f"{' and '.join(map(str, changed))} was changed by hand: keep it, or overwrite it with --force"
        )
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from error
    for path, text in written.items():
        write_atomically(path, _sealed(text).encode(), mode=0o640)
    return folder / "mosquitto.conf"


def check_certificate(settings: BrokerSettings) -> None:
    """Raises: ConfigError: certificate, key and CA do not belong together, or it is not for `settings.name`."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(settings.ca)
        context.load_cert_chain(settings.certificate, settings.key)
        certificate = x509.load_pem_x509_certificate(settings.certificate.read_bytes())
        if settings.key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ConfigError(f"everybody can read the key {settings.key}: chmod o= it")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the broker cannot use the certificate {settings.certificate} with the key {settings.key} and the CA "
            f"{settings.ca}: {error}"
        ) from error
    carried = hosts_of(certificate)
    if settings.name not in carried:
        raise ConfigError(
            f"the certificate {settings.certificate} is for {', '.join(carried) or 'no host'}, not for "
            f"{settings.name}: clients would refuse the broker; name it as in the certificate, or issue one for "
            "this name"
        )
    try:
        usage = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise ConfigError(f"the certificate {settings.certificate} is not a server's: have one issued for a broker")


def _check_path(path: Path | None) -> None:
    """Mosquitto takes the rest of a line as a path, but a line's end it cannot."""
    if path is not None and any(letter in os.fspath(path) for letter in "\r\n\0"):
        raise ConfigError(f"{os.fspath(path)!r} holds a line's end, which Mosquitto's configuration cannot carry")


def _sealed(text: str) -> str:
    return f"{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _was_changed(path: Path) -> bool:
    """Whether the file is there, and not as it was written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    body, _, _ = text.rpartition(_SEAL)
    return _sealed(body) != text
