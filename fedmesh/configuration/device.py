"""What a device insists on, whoever asks: privacy, secure aggregation, limits, hours. The defaults are the safe ones.

A coordinator is not trusted: what it announces is measured against these tables, and declined where it asks for more.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmesh.configuration.section import Section
from fedmesh.configuration.values import Function, Positive, Share
from fedmesh.configuration.windows import WindowValue

__all__ = ["EligibilitySection", "LimitsSection", "PrivacyPolicy", "SecurePolicy"]

Delta = Annotated[float, Field(gt=0, lt=0.1)]


class PrivacyPolicy(Section):
    """The device's whole budgets, over all tasks and for as long as its ledger lives, and what it refuses.

    A file without this table refuses tasks without privacy and spends, of each level, at most epsilon 8 at delta 1e-5.
    """

    required: bool = True
    """Whether tasks without differential privacy are refused."""
    modes: Annotated[tuple[Literal["local", "shared", "client", "central"], ...], Field(strict=False)] = (
        "local",
        "shared",
        "client",
    )
    """Which are taken. ``central`` trusts the server with the noise, and is not among the defaults."""
    example_epsilon: Positive = 8.0
    """Promised to each example: most that all tasks of the modes local and shared may spend."""
    example_delta: Delta = 1e-5
    client_epsilon: Positive = 8.0
    """Promised to the device as a whole: most that all tasks of the modes client and central may spend. Never added to
    the other."""
    client_delta: Delta = 1e-5
    max_task_epsilon: Positive | None = None
    """The most that one task may ask for; None: what is left."""
    min_noise_multiplier: Annotated[float, Field(ge=0)] = 0.0
    """Of one step or one sum. 0: the budgets alone decide."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.modes:
            raise ValueError("modes is empty, so no task can be taken: name local, shared or client, or leave it out")
        largest = max(self.example_epsilon, self.client_epsilon)
        if self.max_task_epsilon is not None and self.max_task_epsilon > largest:
            raise ValueError(
                f"max_task_epsilon is {self.max_task_epsilon:g}, but the device's whole budgets are "
                f"{self.example_epsilon:g} and {self.client_epsilon:g}: lower it, or leave it out"
            )
        return self


class SecurePolicy(Section):
    """The least that the device accepts of a session of secure aggregation: `fedmesh.secagg.Policy`, by its names."""

    required: bool = True
    """Whether tasks whose server sees single updates are refused."""
    smallest_cohort: Annotated[int, Field(ge=4, le=1024)] = 4
    largest_cohort: Annotated[int, Field(ge=4, le=1024)] = 128
    colluders: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Members that may be in league with the server without learning more than the sum; None: just under a third."""
    min_survivors: Annotated[int, Field(ge=0, le=1024)] = 0
    """Fewest inputs in a sum; 0: the session's own threshold."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.smallest_cohort > self.largest_cohort:
            raise ValueError(
                f"smallest_cohort is {self.smallest_cohort} and largest_cohort {self.largest_cohort}: no session fits"
            )
        if self.min_survivors > self.largest_cohort:
            raise ValueError(
                f"min_survivors is {self.min_survivors}, more than largest_cohort ({self.largest_cohort}): no sum fits"
            )
        if self.colluders is not None and self.colluders >= self.largest_cohort:
            raise ValueError(f"colluders is {self.colluders}, as many as largest_cohort ({self.largest_cohort})")
        return self


class LimitsSection(Section):
    """What training may take of the device. What is None is not limited."""

    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """Resident memory of the training process."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    cpu_seconds: Positive | None = None
    """Processor time of the training of one round."""
    max_parameters: Annotated[int, Field(ge=1)] = 50_000_000
    max_steps: Annotated[int, Field(ge=1)] = 10_000
    """Of one round."""
    message_mb: Annotated[int, Field(ge=1, le=256)] = 256
    """Longest message that is received. A member of a mesh takes 64 at most, and a signed list of 8 in any case."""


class EligibilitySection(Section):
    """When the device works. Without this table: always."""

    on_power: bool = False
    """Only while it is not running from its battery."""
    min_battery: Share = 0.0
    """Only with so much charge, as a share; nothing on a device without a battery."""
    unmetered: bool = False
    """Only on a network that is not metered."""
    max_load: Positive | None = None
    """Only while the load average of the last minute, for each core, is below."""
    windows: Annotated[tuple[WindowValue, ...], Field(strict=False)] = ()
    """Only within one of these hours, in local time, as ``"22:00-06:00"`` or ``"mon-fri 01:00-05:30"``."""
    hook: Function | None = None
    """``module:function`` of the device's own: called without arguments, true lets it work."""
