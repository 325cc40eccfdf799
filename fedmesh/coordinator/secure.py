"""Secure aggregation of a federation: what lives longer than a round, and the script of each round.

"What was summed is all that was seen": the strategy is asked whom to train and given the sum of the updates; single
updates, counts and metrics never reach this process but behind masks.
"""

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedmesh.coordinator.ahead import Ahead
from fedmesh.coordinator.convener import Convener, SecureSettings, counter
from fedmesh.coordinator.instructions import SumStrategy, check_sums
from fedmesh.coordinator.registry import Names, Registry
from fedmesh.coordinator.secure_round import Federation, SecureRound
from fedmesh.errors import ConfigError
from fedmesh.secagg import Identity, Roster

__all__ = ["SecureAggregation", "SecureSettings"]


class SecureAggregation:
    """Makes the rounds of a federation that only sums.

    Args:
        strategy: one that is content with the sum.
        identity: the server's; its public key is on the roster.
        roster: devices and server; devices that are not on it take no part.
        settings: of the federation.
        names: node ids -> names of devices; None asks the nodes.
        attempts: round -> number of its next attempt: a journal's `Journal.next_attempt`. None counts in memory, which
            is enough for rounds that no earlier process began.

    Raises:
        ConfigError: the strategy needs more than a sum, or the server is not on the roster.
    """

    def __init__(
        self,
        strategy: SumStrategy,
        *,
        identity: Identity,
        roster: Roster,
        settings: SecureSettings,
        names: Names | None = None,
        attempts: Callable[[int], int] | None = None,
    ) -> None:
        check_sums(strategy)
        own = roster.name_of(identity.public)
        if own is None:
            raise ConfigError("the server's identity is not on the roster: devices would not believe its survivors")
        quorum = settings.quorum or getattr(strategy, "quorum", None) or 1
        registry = Registry(roster, own, names)
        convener = Convener(identity, roster, settings, strategy.layout, attempts or counter())
        ahead = Ahead(convener, registry, getattr(strategy, "drawn", None))
        self._federation = Federation(strategy, convener, registry, ahead, int(quorum))

    def script(
        self, number: int, arrays: ArrayRecord, grid: Grid, *, train_config: ConfigRecord | None = None
    ) -> SecureRound:
        """The logic of round `number`, which begins with `arrays`."""
        config = ConfigRecord() if train_config is None else train_config.copy()
        return SecureRound(self._federation, number, arrays, grid, config)
