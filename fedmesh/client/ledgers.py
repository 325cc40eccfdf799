"""Where a device's privacy ledgers are, and how they are opened: a file a level, held for one round at a time."""

from pathlib import Path

from fedmesh.client.budgets import device_ledger_path
from fedmesh.client.identities import anchor_path, device_name
from fedmesh.errors import DecodeError
from fedmesh.privacy import Anchor, FileLedger
from fedmesh.privacy.settings import Level

__all__ = ["ledger_path", "open_ledger"]


def ledger_path(folder: Path, device: int, level: Level = "example") -> Path:
    """The ledger of a simulated device. Raises: DecodeError: the number is negative."""
    if device < 0:
        raise DecodeError(f"there is no device {device}")
    return device_ledger_path(folder, device_name(device), level)


def open_ledger(
    folder: Path, device: int, *, level: Level = "example", epsilon: float, delta: float, identities: Path | None = None
) -> FileLedger:
    """The ledger of `device` on `level` under a budget, created with the first call.

    Args:
        folder: of the ledgers.
        device: its number.
        level: whom the promise is made to.
        epsilon, delta: the device's whole budget on this level.
        identities: folder of the devices' identities, whose anchors remember where the ledgers end; None: a device
            without an identity has none, and a ledger that was rolled back does not show.

    Raises:
        LedgerError: the ledger or its anchor is damaged, missing or rolled back, held by another process, or cannot be
            written.
        ConfigError: it was opened for another budget.
    """
    path = ledger_path(folder, device, level)
    anchor = None if identities is None else Anchor(anchor_path(identities, device_name(device)))
    return FileLedger(path, epsilon=epsilon, delta=delta, level=level, anchor=anchor)
