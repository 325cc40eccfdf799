"""The parameters of discovery."""

import math
from dataclasses import dataclass

from fedmesh.errors import ConfigError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """All times are seconds.

    Attributes:
        gap_s: one address is not tried more often than that, whatever came of it and whoever names it again.
        longest_s: the gap doubles with every failure in a row, up to this.
        burst, every_s: of one source, so many attempts at once, and then one in each `every_s`.
        tries: a hint of an address nearby expires after so many failures.
        forget_s: so long an expired hint is not taken up again from the same announcement.
        nearby: hints nearby that are kept; addresses: of one of them.
        tried: addresses whose last attempt is remembered.

    Raises:
        ConfigError: one of them is out of range.
    """

    gap_s: float = 5.0
    longest_s: float = 300.0
    burst: int = 4
    every_s: float = 2.0
    tries: int = 5
    forget_s: float = 900.0
    nearby: int = 128
    addresses: int = 8
    tried: int = 2048

    def __post_init__(self) -> None:
        whole = ("burst", "tries", "nearby", "addresses", "tried")
        bad = [name for name in whole if not 1 <= getattr(self, name) <= 4096]
        bad += [name for name in ("gap_s", "every_s", "forget_s") if not 0 < getattr(self, name) < math.inf]
        bad += [] if self.gap_s <= self.longest_s < math.inf else ["longest_s"]
        if bad:
            raise ConfigError(
                f"discovery's {', '.join(bad)} cannot be {', '.join(str(getattr(self, name)) for name in bad)}: counts "
                "are 1 to 4096, times above 0, and longest_s is at least gap_s"
            )
