"""Mechanisms that are wrong in a known way: what an audit has to find.

Each is the product's code, run with settings or data that do to it what a mistake in the code would do, while the claim
stays what it was.
"""

import math
from dataclasses import dataclass, replace

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.privacy.summed import SumSettings

__all__ = ["BROKEN", "SOUND", "UNDEFENDED", "Fault", "fault_named", "silent"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong.

    Attributes:
        name: for people.
        noise: factor on the noise.
        clip: factor on the clip, at the same noise.
        copies: how often each canary counts.
    """

    name: str
    noise: float = 1.0
    clip: float = 1.0
    copies: int = 1

    def applied(self, task: Task) -> Task:
        """The task as the faulty code carries it out."""
        share = self.noise / self.clip
        if task.dp is not None:
            dp = task.dp
            return replace(task, dp=replace(dp, clip=dp.clip * self.clip, noise_multiplier=dp.noise_multiplier * share))
        if task.summed is not None:
            summed = task.summed
            grid = summed.gamma / self.clip  # a ring unit stays what it was
            changed = replace(
                summed,
                clip=summed.clip * self.clip,
                noise_multiplier=summed.noise_multiplier * share,
                gamma=grid,
            )
            return replace(task, summed=changed)
        return task


SOUND = Fault("as configured")
UNDEFENDED = Fault("without noise", noise=1e-5)
BROKEN = {
    "half-noise": Fault("half the noise", noise=0.5),
    "quarter-noise": Fault("a quarter of the noise", noise=0.25),
    "no-clip": Fault("clip forgotten", clip=10.0),
    "counted-twice": Fault("every canary counted twice", copies=2),
}


def fault_named(name: str) -> Fault:
    """The fault of that name. Raises: ConfigError: there is none."""
    if name not in BROKEN:
        raise ConfigError(f"there is no fault {name!r}: choose one of {', '.join(BROKEN)}")
    return BROKEN[name]


def silent(settings: SumSettings) -> SumSettings:
    """The settings with next to no noise on a device: one of 10^10 values moves, since none at all is refused."""
    return replace(settings, noise_multiplier=1e-5 * settings.gamma * math.sqrt(settings.honest))
