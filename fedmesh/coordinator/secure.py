"""Secure aggregation of a federation: what lives longer than a round, and the script of each round.

"What was summed is all that was seen": the strategy is asked whom to train and given the sum of the updates; single
updates, counts and metrics never reach this process but behind masks.
"""

from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedmesh.coordinator.ahead import Ahead, Draw
from fedmesh.coordinator.convener import Convener, counter
from fedmesh.coordinator.instructions import SumStrategy, check_sums
from fedmesh.coordinator.registry import Names, Registry
from fedmesh.coordinator.secure_round import Federation, SecureRound
from fedmesh.coordinator.secure_settings import SecureSettings
from fedmesh.coordinator.selection import Selection
from fedmesh.coordinator.settings import RoundSettings
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
        rounds: over-selection (keys are then exchanged in each round, not ahead), deadline of the training, and quorum;
            None: all that the strategy draws are waited for.
        seed: of the draw that `rounds` ask for; None: from the operating system's randomness.

    Raises:
        ConfigError: the strategy needs more than a sum, the server is not on the roster, or rounds of these settings
            cannot come to a sum.
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
        rounds: RoundSettings | None = None,
        seed: int | None = None,
    ) -> None:
        check_sums(strategy)
        own = roster.name_of(identity.public)
        if own is None:
            raise ConfigError("the server's identity is not on the roster: devices would not believe its survivors")
        if rounds is not None:
            rounds.check_secure(group_size=settings.group_size, smallest_sum=settings.smallest_sum)
        quorum = settings.quorum or (rounds and rounds.quorum) or getattr(strategy, "quorum", None) or 1
        rounds = rounds or RoundSettings()
        selection = Selection(rounds, seed=seed)
        registry = Registry(roster, own, names)
        convener = Convener(identity, roster, settings, strategy.layout, attempts or counter())
        # Keys that are exchanged on the messages of a round whose last answers are not waited for are never complete.
        draw = None if rounds.over_selection > 1 else _draw(selection, getattr(strategy, "drawn", None))
        ahead = Ahead(convener, registry, draw)
        self._federation = Federation(strategy, convener, registry, ahead, selection, rounds, int(quorum))

    def script(
        self, number: int, arrays: ArrayRecord, grid: Grid, *, train_config: ConfigRecord | None = None
    ) -> SecureRound:
        """The logic of round `number`, which begins with `arrays`."""
        config = ConfigRecord() if train_config is None else train_config.copy()
        return SecureRound(self._federation, number, arrays, grid, config)


def _draw(selection: Selection, strategy: Draw | None) -> Draw | None:
    """Whom a strategy is going to draw of those that are drawn for it."""
    if strategy is None:
        return None
    return lambda number, nodes: strategy(number, selection.drawn(number, nodes))
