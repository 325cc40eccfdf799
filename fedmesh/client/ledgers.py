"""Where a device's privacy ledger is, and how it is opened: one file a device, held for one round at a time."""

from pathlib import Path

from fedmesh.errors import DecodeError
from fedmesh.privacy import DpSettings, FileLedger

__all__ = ["ledger_path", "open_ledger"]


def ledger_path(folder: Path, device: int) -> Path:
    """The ledger of `device` in `folder`. Raises: DecodeError: the number is negative."""
    if device < 0:
        raise DecodeError(f"there is no device {device}")
    return folder / f"device-{device}.ledger"


def open_ledger(folder: Path, device: int, settings: DpSettings) -> FileLedger:
    """The ledger of `device` under the budget of `settings`, created with the first call.

    Raises:
        LedgerError: it is damaged, held by another process, or cannot be written.
        ConfigError: it was opened for another budget.
    """
    return FileLedger(ledger_path(folder, device), epsilon=settings.epsilon, delta=settings.delta)
