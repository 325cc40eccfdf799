"""Differential privacy: DP-SGD, the noise it rests on, accountants and the device's ledger.

Importing this package imports none of torch, Opacus and dp-accounting; a name does so when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.privacy.accountant import epsilon, spent
    from fedmesh.privacy.anchor import Anchor
    from fedmesh.privacy.calibration import gaussian_noise_multiplier, noise_multiplier, skellam_noise_multiplier
    from fedmesh.privacy.chain import Charge, Head
    from fedmesh.privacy.dpsgd import DpSgd
    from fedmesh.privacy.ledger import FileLedger, TaskLedger, release_id
    from fedmesh.privacy.noise import KeyedNoise, NoiseSource, SystemNoise
    from fedmesh.privacy.settings import DpSettings

__all__ = [
    "Anchor",
    "Charge",
    "DpSettings",
    "DpSgd",
    "FileLedger",
    "Head",
    "KeyedNoise",
    "NoiseSource",
    "SystemNoise",
    "TaskLedger",
    "epsilon",
    "gaussian_noise_multiplier",
    "noise_multiplier",
    "release_id",
    "skellam_noise_multiplier",
    "spent",
]

_HOME = {
    "Anchor": "anchor",
    "Charge": "chain",
    "DpSettings": "settings",
    "DpSgd": "dpsgd",
    "FileLedger": "ledger",
    "Head": "chain",
    "KeyedNoise": "noise",
    "NoiseSource": "noise",
    "SystemNoise": "noise",
    "TaskLedger": "ledger",
    "epsilon": "accountant",
    "gaussian_noise_multiplier": "calibration",
    "noise_multiplier": "calibration",
    "release_id": "ledger",
    "skellam_noise_multiplier": "calibration",
    "spent": "accountant",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
