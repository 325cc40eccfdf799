"""A folder of identities: who the aggregator and the devices of a simulation are, or who one real device is.

One private key a party (``device-3.key``, 32 bytes, readable by its owner alone), and the roster of all public ones
(``roster.cbor``). A real device's folder holds its own key and the roster it was enrolled with, nothing else. What
secure aggregation has to remember across restarts lies beside the key (``device-3.sqlite``), and so does the anchor of
its privacy ledgers (``device-3.anchor``): where they ended.
"""

from pathlib import Path

from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.privacy import Anchor
from fedmesh.secagg import Identity, Roster

__all__ = [
    "AGGREGATOR",
    "anchor_path",
    "create_identities",
    "device_name",
    "open_identity",
    "open_roster",
    "store_path",
]

AGGREGATOR = "aggregator"
"""The aggregator's name on a roster."""

_ROSTER = "roster.cbor"
_KEY_BYTES, _MAX_BYTES = 32, 64 << 10


def device_name(partition: int) -> str:
    """The name of a simulated device. Raises: ConfigError: the number is negative."""
    if partition < 0:
        raise ConfigError(f"there is no device {partition}: devices count from 0")
    return f"device-{partition}"


def create_identities(folder: Path, devices: int) -> Roster:
    """Identities of the aggregator and of devices 0 to `devices` - 1; what is there already is kept.

    A device gets the anchor of its ledgers with its key, and never again: an anchor that is missing later was lost or
    taken away, and its ledgers are not opened. Durable before it returns. Several processes must not create in one
    folder at a time.

    Raises:
        ConfigError: the folder cannot be written, is damaged, or its roster and its keys disagree.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
    names = [AGGREGATOR, *map(device_name, range(devices))]
    known = open_roster(folder) if (folder / _ROSTER).exists() else None
    keys = {} if known is None else {name: known.key(name) for name in known.names}
    for name in names:
        public = _public(folder, name, enrolled=name in keys)
        if keys.setdefault(name, public) != public:
            raise ConfigError(
                f"{folder / _ROSTER} and {name}.key disagree: put back the folder as it was, or remove it"
            )
    roster = Roster(keys)
    if known is None or len(known) != len(roster):
        write_atomically(folder / _ROSTER, roster.to_bytes())
    return roster


def open_identity(folder: Path, name: str) -> Identity:
    """The identity of `name`.

    Raises:
        ConfigError: there is no such key, it is damaged, or others can read it.
    """
    path = folder / f"{name}.key"
    private = read_bounded(path, _MAX_BYTES, called="the identity", advice="enrol the device first", secret=True)
    if len(private) != _KEY_BYTES:
        raise ConfigError(f"{path} is not an identity of {_KEY_BYTES} bytes: put back a copy, or enrol the device anew")
    return Identity.from_private(private)


def open_roster(folder: Path) -> Roster:
    """The roster. Raises: ConfigError: there is none, or it is damaged."""
    path = folder / _ROSTER
    try:
        return Roster.from_bytes(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the roster {path}: {error.strerror}; enrol the device first") from error
    except FedMeshError as error:
        raise ConfigError(f"the roster {path} is damaged ({error}): put back a copy") from error


def store_path(folder: Path, name: str) -> Path:
    """Where `name` keeps what secure aggregation must not forget."""
    return folder / f"{name}.sqlite"


def anchor_path(folder: Path, name: str) -> Path:
    """Where `name` remembers where its privacy ledgers ended."""
    return folder / f"{name}.anchor"


def _public(folder: Path, name: str, *, enrolled: bool) -> bytes:
    """The public key of `name`, which is given one if it is new."""
    path = folder / f"{name}.key"
    if enrolled and not path.exists():
        raise ConfigError(
            f"{folder / _ROSTER} names {name}, but {path.name} is not there: put back the folder as it was, or "
            "remove it"
        )
    if not path.exists():
        if name != AGGREGATOR:
            Anchor.create(anchor_path(folder, name))  # before the key: a crash leaves no key without its anchor
        identity = Identity.generate()
        write_atomically(path, identity.private_bytes(), mode=0o600)
        return identity.public
    return open_identity(folder, name).public
