"""Whether a device works now: the operator's rules held against facts. Pure; `fedmesh.client.facts` reads them."""

from dataclasses import dataclass
from datetime import datetime

from fedmesh.configuration.device import EligibilitySection

__all__ = ["Facts", "reason"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the device now.

    Attributes:
        discharging: it runs from its battery. charge: of the battery, as a share; None: it has none.
        metered: whether what is sent costs; None: not known.
        load: average of the last minute, for each core; None: not known.
        local: wall clock time, where the device is.
        hook: what the operator's hook said; None: it failed, or took too long.
    """

    local: datetime
    discharging: bool = False
    charge: float | None = None
    metered: bool | None = None
    load: float | None = None
    hook: bool | None = None


def reason(rules: EligibilitySection, facts: Facts) -> str:
    """Why the device does not work now, one word of the protocol; empty: it does.

    What a rule asks about and is not known keeps the device from working, but for the charge where there is no battery.
    """
    broken = {
        "schedule": bool(rules.windows) and not any(window.contains(facts.local) for window in rules.windows),
        "power": rules.on_power and facts.discharging,
        "battery": facts.charge is not None and facts.charge < rules.min_battery,
        "network": rules.unmetered and facts.metered is not False,
        "busy": rules.max_load is not None and (facts.load is None or facts.load >= rules.max_load),
        "hook": rules.hook is not None and facts.hook is not True,
    }
    return next((why for why, is_broken in broken.items() if is_broken), "")
