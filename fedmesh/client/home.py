"""Where a device's keys, ledgers and memory are: in one folder with everybody's, or in its own (`enrolled_home`).

A client app asks for them by the number in its Context, so that one app plays any device of a simulation, and is the
only one on a device of its own.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedmesh.client.identities import device_name, open_identity, open_roster, store_path
from fedmesh.client.ledgers import open_ledger
from fedmesh.errors import ConfigError
from fedmesh.privacy.settings import Budget
from fedmesh.secagg import Identity, Policy, Roster
from fedmesh.types import Ledger

__all__ = ["Homes", "Member", "SimulatedHomes"]


@dataclass(frozen=True, slots=True)
class Member:
    """Who a device is in secure aggregation.

    Attributes:
        name, identity: the device's; roster: whom it knows.
        store_path: where it remembers what it has signed.
    """

    name: str
    identity: Identity
    roster: Roster
    store_path: Path


class Homes(Protocol):
    """Of one device, or of many.

    Attributes:
        simulated: whether noise may be keyed by a seed that others know, which protects nobody.
        floor: the least that secure aggregation has to offer here; None: its safe defaults.
    """

    @property
    def simulated(self) -> bool:
        """As above."""
        ...

    @property
    def floor(self) -> Policy | None:
        """As above."""
        ...

    def check(self, name: str, *, private: bool, secure: bool) -> None:
        """Whether what a task called `name` needs is kept here.

        Args:
            name: of the task; private: it has a budget; secure: it is under secure aggregation.

        Raises:
            ConfigError: it is not; the message says what to do.
        """
        ...

    def member(self, device: int) -> Member:
        """Who the device is. Raises: ConfigError: there is no sound identity for it."""
        ...

    def ledger(self, device: int, task: str, budget: Budget) -> AbstractContextManager[Ledger]:
        """What the task's rounds are charged to, held for one round.

        Raises:
            LedgerError: it is damaged, missing, rolled back, held by another process, or cannot be written.
            ConfigError: it was opened for another budget.
        """
        ...


class SimulatedHomes:
    """All devices of a simulation, in folders that hold everybody's.

    Args:
        ledgers: folder of the privacy ledgers; needed if a task is private.
        identities: folder of the identities (`create_identities`); needed under secure aggregation. The ledgers are
            anchored in it.
    """

    simulated = True
    floor: Policy | None = None

    def __init__(self, ledgers: Path | None = None, identities: Path | None = None) -> None:
        self._ledgers, self._identities = ledgers, identities
        self._roster: Roster | None = None
        self._keys: dict[str, Identity] = {}

    def check(self, name: str, *, private: bool, secure: bool) -> None:
        """As `Homes`."""
        if private and self._ledgers is None:
            raise ConfigError(f"task {name} trains under a privacy budget: say where its ledgers are kept")
        if secure and self._identities is None:
            raise ConfigError(f"task {name} is under secure aggregation: say where its identities are kept")

    def member(self, device: int) -> Member:
        """As `Homes`; read when it is needed, once."""
        folder, name = self._folder(), device_name(device)
        if self._roster is None:
            self._roster = open_roster(folder)
        if name not in self._keys:
            self._keys[name] = open_identity(folder, name)
        return Member(name, self._keys[name], self._roster, store_path(folder, name))

    def ledger(self, device: int, task: str, budget: Budget) -> AbstractContextManager[Ledger]:  # noqa: ARG002
        """As `Homes`. A simulated device has one task, so its whole budget is the task's."""
        assert self._ledgers is not None, "checked"
        return open_ledger(
            self._ledgers,
            device,
            level=budget.level,
            epsilon=budget.epsilon,
            delta=budget.delta,
            identities=self._identities,
        )

    def _folder(self) -> Path:
        if self._identities is None:
            raise ConfigError("a device's identity is asked for, and no folder of identities was named")
        return self._identities
