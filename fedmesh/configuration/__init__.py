"""What an operator writes: TOML files, read once at the edge into frozen models; a wrong key is refused by name.

`CoordinatorConfig`, `ClientConfig` and `PeerConfig` are the files of ``fedmesh coordinator run``, ``client run`` and
``peer run``. A relative path in one is relative to the folder of the file. Whether what it names is there, is for those
who use it to find out, and for ``fedmesh config check``.

Each is imported when it is first used: models of pydantic take memory that the other party does not need.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.configuration.client import ClientConfig
    from fedmesh.configuration.coordinator import CoordinatorConfig
    from fedmesh.configuration.peer import PeerConfig

__all__ = ["ClientConfig", "CoordinatorConfig", "PeerConfig"]

_HOME = {
    "ClientConfig": "client",
    "CoordinatorConfig": "coordinator",
    "PeerConfig": "peer",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
