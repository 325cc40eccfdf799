"""How long a round waits, and for whom: over-selection, deadlines, quorum, late joiners. One place, checked at once.

A round asks more devices than it needs (``ceil(wanted * over_selection)``, Bonawitz et al. 2019) and goes on as soon as
``wanted`` of them have trained; the others are dropped as if they had vanished.
"""

import math
from dataclasses import dataclass

from fedmesh.coordinator.groups import SMALLEST_GROUP, group_sizes
from fedmesh.errors import ConfigError
from fedmesh.secagg import SessionHeader

__all__ = ["RoundSettings", "share_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """The section ``[round]`` of a deployment.

    Attributes:
        wanted: trained devices that a round goes on with; None: all that are asked, and those are whom the strategy
            draws.
        over_selection: this many times as many are asked, 1 or more.
        deadline_s: longest wait for the answers of an exchange; None waits for all.
        train_deadline_s: the same for the exchange in which devices train; None: `deadline_s`.
        quorum: fewest trained devices that make a round.
        min_devices: a round does not begin before so many are there.
        wait_s: longest wait for them; then the round has failed.
        pause_s: between two rounds.
        settle_s: the first round waits until nobody has joined for so long, or all that are `planned` are there: those
            that were started together begin together.
        planned: devices beyond which nobody is waited for to settle; None: not known.

    Raises:
        ConfigError: a setting is out of range, or the quorum can never be reached.
    """

    wanted: int | None = None
    over_selection: float = 1.0
    deadline_s: float | None = None
    train_deadline_s: float | None = None
    quorum: int = 1
    min_devices: int = 1
    wait_s: float = 600.0
    pause_s: float = 0.0
    settle_s: float = 0.0
    planned: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges, and that the quorum can be reached."""
        _check("wanted", self.wanted, self.wanted is None or self.wanted >= 1, "1 or more")
        _check("over_selection", self.over_selection, 1 <= self.over_selection < math.inf, "1 or more")
        for name in ("deadline_s", "train_deadline_s"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 < value < math.inf, "a positive number of seconds")
        _check("quorum", self.quorum, self.quorum >= 1, "1 or more")
        _check("min_devices", self.min_devices, self.min_devices >= 1, "1 or more")
        for name in ("wait_s", "pause_s", "settle_s"):
            value = getattr(self, name)
            _check(name, value, 0 <= value < math.inf, "seconds, 0 or more")
        if self.wanted is None and self.over_selection > 1:
            raise ConfigError(
                f"[round] over_selection = {self.over_selection:g} is a multiple of wanted, which is missing: say how "
                "many devices a round goes on with"
            )
        if self.wanted is not None and self.quorum > self.wanted:
            raise ConfigError(
                f"[round] quorum is {self.quorum}, but a round goes on with {self.wanted} devices (wanted) and never "
                "has more: lower the quorum or raise wanted"
            )
        if self.min_devices < self.quorum:
            raise ConfigError(
                f"[round] min_devices is {self.min_devices}, the quorum {self.quorum}: a round would begin that cannot "
                "succeed; raise min_devices to the quorum or above"
            )

    @property
    def asked(self) -> int | None:
        """Devices that a round asks when so many are there; None: whom the strategy draws."""
        # 10 * 1.1 is 11.000000000000002 in floats, and nobody who writes that means 12.
        return None if self.wanted is None else math.ceil(round(self.wanted * self.over_selection, 9))

    def enough(self, asked: int) -> int | None:
        """Trained devices with which a round that asked `asked` goes on at once; None waits for all."""
        return None if self.wanted is None or asked <= self.wanted else self.wanted

    def check_secure(self, *, group_size: int, smallest_sum: int = 0) -> None:
        """Whether rounds of these settings can come to sums under secure aggregation.

        Args:
            group_size: most devices of a session.
            smallest_sum: inputs that the noise in a sum is sized for; 0 without any.

        Raises:
            ConfigError: too few devices for a session, or fewer wanted of it than it needs to be unmasked.
        """
        fewest = max(SMALLEST_GROUP, smallest_sum)
        for name, value in (("min_devices", self.min_devices), ("wanted", self.wanted)):
            if value is not None and value < fewest:
                raise ConfigError(
                    f"[round] {name} is {value}, and a secure sum is of {fewest} devices or more: raise it, or turn "
                    "secure_aggregation.enabled off"
                )
        if self.wanted is None or self.asked is None:
            return
        for size in group_sizes(self.asked, group_size):
            least = max(SessionHeader.threshold_for(size), min(size, smallest_sum))
            share = share_of(self.wanted, size, self.asked)
            if share < least:
                raise ConfigError(
                    f"[round] wanted = {self.wanted} with over_selection = {self.over_selection:g} goes on with {share}"
                    f" of a session of {size}; {least} are needed to unmask its sum, which bears the loss of a third "
                    "at most: lower over_selection"
                )


def share_of(wanted: int, members: int, asked: int) -> int:
    """Of `wanted` devices out of `asked`, those that a session of `members` has to contribute, rounded up."""
    return -(-wanted * members // asked)


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigError(f"[round] {name} is {value!r}, wanted {wanted}")
