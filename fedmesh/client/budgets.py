"""A device's whole budgets, held against its ledgers when its agent begins. Loads no numpy.

How a ledger was opened is looked at, and that no entry is damaged; what was spent is for whoever charges.
"""

from collections.abc import Mapping
from pathlib import Path

from fedmesh.errors import ConfigError
from fedmesh.privacy.entries import Opening
from fedmesh.privacy.ledger_file import read_ledger
from fedmesh.privacy.settings import Budget, Level

__all__ = ["LEDGERS", "check_budgets", "device_ledger_path"]

LEDGERS = "ledgers"
"""The folder of the ledgers in an enrolled device's state folder."""


def device_ledger_path(folder: Path, name: str, level: Level = "example") -> Path:
    """The ledger of the device called `name` on `level` in `folder`."""
    return folder / (f"{name}.ledger" if level == "example" else f"{name}.{level}.ledger")


def check_budgets(state: Path, name: str, budgets: Mapping[Level, Budget]) -> None:
    """Holds `budgets` against the ledgers, if there are any, of the device called `name` with the folder `state`.

    Raises:
        ConfigError: a ledger was opened for another budget, or cannot be read.
        LedgerError: it is damaged.
    """
    for level, whole in budgets.items():
        path = device_ledger_path(state / LEDGERS, name, level)
        if path.exists() and not _is_for(there := read_ledger(path)[0], whole):
            raise ConfigError(
                f"the privacy ledger {path} was opened for epsilon {there.epsilon:g} at delta {there.delta:g}, and "
                f"the configuration says {whole.epsilon:g} at {whole.delta:g}: a budget is not changed on the way. "
                "Put the first one back"
            )


def _is_for(opening: Opening, whole: Budget) -> bool:
    return (opening.epsilon, opening.delta) == (whole.epsilon, whole.delta)
