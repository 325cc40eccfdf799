"""What a device stands at, read from its folders beside an agent that may run."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.journal import DeviceJournal
from fedmesh.client.policy import budgets_of, client_apps
from fedmesh.errors import FedMeshError
from fedmesh.fleet.agent import Device
from fedmesh.fleet.device import JOURNAL, LOCK
from fedmesh.privacy.settings import Budget
from fedmesh.privacy.statement import Statement
from fedmesh.wire import loads

__all__ = ["standing"]


def standing(device: Device, *, clock: float | None = None) -> dict[str, Any]:
    """Identity, budgets and runs, as plain data.

    Raises:
        ConfigError: the journal cannot be read.
    """
    config, membership, now = device.config, device.membership, time.time() if clock is None else clock
    budgets = budgets_of(config)
    home = EnrolledHome(config.identity.folder, config.state.folder, budgets=budgets)
    return {
        "identity": {
            "name": membership.name.uri,
            "until": f"{membership.leaf.not_valid_after_utc:%F %T} UTC",
            "due": membership.due(now),
            "expired": membership.expired(now),
        },
        "tier": config.tier,
        "clients": list(client_apps(config)),
        "coordinators": list(config.coordinators),
        "running": _is_held(config.state.folder / LOCK),
        "privacy": {level: _account(home.ledger_path(level), budget) for level, budget in budgets.items()},
        "runs": _runs(config.state.folder / JOURNAL),
    }


def _account(path: Path, budget: Budget) -> dict[str, Any]:
    account: dict[str, Any] = {"budget": budget.epsilon, "delta": budget.delta, "spent": 0.0, "charges": 0, "error": ""}
    if not path.exists():
        return account
    try:
        whole = Statement(path).whole()
    except FedMeshError as error:
        return {**account, "spent": None, "error": str(error)}
    return {**account, "spent": whole.reported, "charges": whole.charges}


def _runs(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    journal = DeviceJournal(path)
    try:
        return [
            {
                "run": kept.run,
                "name": loads(kept.offer, max_bytes=1 << 16)["name"],
                "coordinator": kept.coordinator,
                "waiting": len(journal.outstanding(kept.run)),
            }
            for kept in journal.runs()
        ]
    finally:
        journal.close()


def _is_held(path: Path) -> bool:
    """Whether an agent holds the folder's lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
