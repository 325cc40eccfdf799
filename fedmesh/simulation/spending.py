"""What the devices of a run have spent, and whether their ledgers hold all that the journal says was spent.

A ledger is hash-chained, but whoever loses one, or its end, loses entries without a trace: a device would be given its
budget anew. The journal remembers how far each round had come.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmesh.client.identities import anchor_path, device_name
from fedmesh.client.ledgers import ledger_path, open_ledger
from fedmesh.coordinator import RoundRecord
from fedmesh.errors import LedgerError
from fedmesh.privacy import Anchor
from fedmesh.privacy.settings import Budget, Level

__all__ = ["check_spent", "spent_by_device"]

_ROUNDING = 1e-6


def spent_by_device(folder: Path, devices: int, budget: Budget, *, identities: Path | None = None) -> dict[int, float]:
    """Device -> epsilon spent so far on the budget's level, for those of `devices` that ever trained under it.

    Args:
        folder: of the ledgers.
        devices: how many there are.
        budget: of each of them.
        identities: folder of the devices' identities, where their ledgers are anchored; None: they are not.

    Raises:
        LedgerError: a ledger is damaged, or was rolled back.
    """
    spent = {}
    for device in range(devices):
        if ledger_path(folder, device, budget.level).exists() or _is_anchored(identities, device, budget.level):
            with open_ledger(
                folder,
                device,
                level=budget.level,
                epsilon=budget.epsilon,
                delta=budget.delta,
                identities=identities,
            ) as ledger:
                spent[device] = ledger.epsilon()
    return spent


def check_spent(records: Sequence[RoundRecord], spent: Mapping[int, float], devices: int) -> None:
    """Holds the ledgers against the journal.

    A device that was asked in a good round and did not fall out of it trained (when secure aggregation gives up on some
    of its sessions, their devices may not have come to train); after as many rounds as it surely trained in, it has
    spent at least what the most any device can have spent by then was recorded to be.

    Raises:
        LedgerError: entries are missing.
    """
    recorded = [record.evaluation.get("epsilon") or 0.0 for record in records]
    least = dict.fromkeys(range(devices), 0)  # rounds that a device surely trained in
    for record in records[1:]:
        if record.clients == devices and _all_came_to_train(record):
            fallen = {device for device, _ in record.failures}
            for device in least.keys() - fallen:
                least[device] += 1
    for device, rounds in least.items():
        _compare(f"the privacy ledger of device {device} says", spent.get(device, 0.0), recorded[rounds])
    _compare("the privacy ledgers together say", max(spent.values(), default=0.0), max(recorded))


def _is_anchored(identities: Path | None, device: int, level: Level) -> bool:
    """Whether the device's anchor knows of a ledger: one that is not there is then missing."""
    return identities is not None and level in Anchor(anchor_path(identities, device_name(device))).heads()


def _all_came_to_train(record: RoundRecord) -> bool:
    """Whether all trained who did not fall out."""
    last = max((session.attempt for session in record.sessions), default=0)
    given_up = any(session.aborted for session in record.sessions if session.attempt == last)
    return record.failed is None and not given_up


def _compare(who: str, found: float, wanted: float) -> None:
    if found < wanted - _ROUNDING:
        raise LedgerError(
            f"{who} that epsilon {found:.3g} is spent, the journal that it was at least {wanted:.3g}: entries are "
            "lost, and the budget would be given out twice. Put the ledgers of this run back, or start a new run"
        )
