"""The public parameters of privacy inside a secure sum: every device adds a share of the noise, the sum carries all.

Two promises, never added up: to every *example* of a device, whose clipped gradients are summed (the noise of central
DP-SGD without the centre), or to every *device* as a whole, whose update is clipped (Agarwal et al. 2021,
arXiv 2110.04995; Kairouz et al. 2021, arXiv 2102.06387). Both rest on the secure sum, and on `honest` inputs in it:
a sum of fewer is never released. One more form, `trusted_server`, leaves the noise to the server and is for comparison.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from fedmesh.errors import ConfigError
from fedmesh.privacy.accountant import epsilon
from fedmesh.privacy.calibration import smallest_multiplier
from fedmesh.privacy.settings import Level, Mode
from fedmesh.privacy.skellam import dimension, granularity, sensitivity
from fedmesh.types import PrivacyEvent

__all__ = ["BIT", "LARGEST_CLIP", "SMALLEST_CLIP", "QuantileSettings", "SumSettings", "calibrated"]

BIT = 16
"""Ring units that stand for one device's "my update was not clipped"."""

SMALLEST_CLIP, LARGEST_CLIP = 1e-9, 1e9
"""What a clip may be, and where one that follows a quantile stops: beyond them something else is wrong."""

_STEPS_A_SIGMA = 1 << 9
_STEPS_A_ROUNDING = 1 << 4
"""A grid finer than this, against the noise and against rounding's share of the norm, costs tables and gains nothing:
the bound on the norm is a twentieth of a percent above the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileSettings:
    """A clip that follows a quantile of the devices' update norms (Andrew et al. 2021, arXiv 1905.03871).

    Attributes:
        target: share of updates that should not be clipped.
        rate: the clip is multiplied by exp(-rate * (share not clipped - target)) after a round.
        noise_multiplier: standard deviation of the noise in the count of updates that were not clipped, in devices.
    """

    target: float
    rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        """Checks the ranges."""
        _check("quantile.target", self.target, 0 < self.target < 1, "a share between 0 and 1")
        _check("quantile.rate", self.rate, 0 < self.rate <= 1, "a number up to 1")
        _positive("quantile.noise_multiplier", self.noise_multiplier)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSettings:
    """Differential privacy of what a secure sum shows; the same on every device and on the server.

    Attributes:
        level: whom the promise is made to: an ``example`` of a device, or a device (``client``).
        epsilon, delta: the budget over the whole task.
        clip: largest L2 norm of an example's gradient, or of a device's update. With a quantile: in round 1.
        noise_multiplier: standard deviation of the noise that `honest` devices add together, in units of the clip.
        honest: inputs of honest devices that the noise is sized for; n' of the papers.
        colluders: devices in a sum that are assumed to subtract their own noise.
        members: most devices in a sum.
        size: parameters of the model, P.
        bits: of the ring that the sum is taken in.
        gamma: what a ring unit stands for, as a share of the clip.
        expected_batch: level ``example``: denominator, examples of a device. Public; 1 on level ``client``.
        step: what the mean is multiplied by: the learning rate on level ``example``, 1 on level ``client``.
        trusted_server: the server adds the noise, after it has seen the exact sum: for comparison only.
        quantile: level ``client``: how the clip follows the updates; None: it is fixed.

    Raises:
        ConfigError: a value is out of range.
    """

    level: Level
    epsilon: float
    delta: float
    clip: float
    noise_multiplier: float
    honest: int
    colluders: int
    members: int
    size: int
    bits: int
    gamma: float
    expected_batch: float = 1.0
    step: float = 1.0
    trusted_server: bool = False
    quantile: QuantileSettings | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("epsilon", "noise_multiplier", "gamma", "expected_batch", "step"):
            _positive(name, getattr(self, name))
        wanted = f"between {SMALLEST_CLIP:g} and {LARGEST_CLIP:g}"
        _check("clip", self.clip, SMALLEST_CLIP <= self.clip <= LARGEST_CLIP, wanted)
        _check("delta", self.delta, 0 < self.delta < 1, "between 0 and 1, e.g. 1e-5")
        _check("level", self.level, self.level in {"example", "client"}, "'example' or 'client'")
        _check("honest", self.honest, self.honest >= 1, "1 or more")
        _check("colluders", self.colluders, self.colluders >= 0, "0 or more")
        _check("members", self.members, self.members >= self.smallest_sum, f"at least {self.smallest_sum}")
        _check("size", self.size, self.size >= 1, "1 or more")
        _check("bits", self.bits, 2 <= self.bits <= 62, "2 to 62")
        _check("bits", self.bits, self.largest_value >= 1, f"enough for {self.members} members, a unit of each")
        on_clients = self.level == "client"
        _check("quantile", self.quantile, self.quantile is None or on_clients, "None on level 'example'")
        _check("trusted_server", self.trusted_server, on_clients or not self.trusted_server, "off on level 'example'")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``. Raises: TypeError: keys are missing or unknown."""
        quantile = plain.get("quantile")
        return cls(**{**plain, "quantile": None if quantile is None else QuantileSettings(**quantile)})

    @property
    def mode(self) -> Mode:
        """``shared``, ``client`` or ``central``."""
        if self.level == "example":
            return "shared"
        return "central" if self.trusted_server else "client"

    @property
    def dimension(self) -> int:
        """Ring elements that an update of `size` values takes after its rotation."""
        return dimension(self.size)

    @property
    def length(self) -> int:
        """Ring elements of a device's input."""
        return self.dimension + (self.quantile is not None)

    @property
    def largest_value(self) -> int:
        """Ring units within which the noiseless inputs of all `members` cannot wrap around."""
        return ((1 << (self.bits - 1)) - 1) // self.members

    @property
    def smallest_sum(self) -> int:
        """Fewest inputs of a sum that may be released."""
        return self.honest + self.colluders

    @property
    def sigma_local(self) -> float:
        """Standard deviation of one device's noise, as a share of the clip; 0 where the server adds it."""
        return 0.0 if self.trusted_server else self.noise_multiplier / math.sqrt(self.honest)

    @property
    def quantile_variance(self) -> float:
        """Variance of one device's noise on its bit, in ring units squared."""
        assert self.quantile is not None
        return (BIT * self.quantile.noise_multiplier) ** 2 / self.honest

    def events(self, label: str = "", *, survivors: int | None = None) -> tuple[PrivacyEvent, ...]:
        """What one round costs.

        Args:
            label: names it in a ledger.
            survivors: inputs that the sum really had; None: the fewest that it may have.

        Raises:
            ConfigError: so few may not be released.
        """
        count = self.smallest_sum if survivors is None else survivors
        if count < self.smallest_sum:
            raise ConfigError(f"a sum of {count} inputs is below the floor of {self.smallest_sum}: it is not released")
        honest = count - self.colluders
        bound = sensitivity(1.0, self.gamma, self.dimension)
        if self.trusted_server:  # rounding lets an update move the sum by a little more than the clip
            multiplier = self.noise_multiplier / (bound.l2 * self.gamma)
            values = PrivacyEvent("gaussian", {"noise_multiplier": multiplier}, 1, label)
        else:
            variance = honest * (self.sigma_local / self.gamma) ** 2
            values = PrivacyEvent("skellam", {"l2": bound.l2, "l1": bound.l1, "variance": variance}, 1, label)
        if self.quantile is None:
            return (values,)
        bits = {"l2": float(BIT), "l1": float(BIT), "variance": honest * self.quantile_variance}
        return values, PrivacyEvent("skellam", bits, 1, f"{label}/quantile")


def calibrated(settings: Callable[[float, float], SumSettings], *, rounds: int, signal: float = 1.0) -> SumSettings:
    """The settings with the smallest noise multiplier with which `rounds` rounds fit into the budget, by RDP.

    Args:
        settings: (noise multiplier, gamma) -> settings.
        rounds: of the task.
        signal: largest norm that a device's input can reach without noise, in units of the clip; sizes the grid.

    Raises:
        ConfigError: no multiplier fits: the grid is too coarse, or the budget too small.
    """

    def at(multiplier: float) -> SumSettings:
        rough = settings(multiplier, 1.0)
        sigma = multiplier / math.sqrt(rough.honest)
        gamma = granularity(
            clip=signal, members=rough.members, dimension=rough.dimension, sigma_local=sigma, bits=rough.bits
        )
        fine_enough = min(sigma / _STEPS_A_SIGMA, 1 / (_STEPS_A_ROUNDING * math.sqrt(rough.dimension)))
        return settings(multiplier, max(gamma, fine_enough))

    def spent(multiplier: float) -> float:
        return epsilon([replace(event, count=rounds) for event in at(multiplier).events()], rough.delta, "rdp")

    rough = at(1.0)
    multiplier = smallest_multiplier(spent, rough.epsilon)
    if multiplier is None:
        raise ConfigError(_hopeless(rough, rounds))
    return at(multiplier)


def _hopeless(settings: SumSettings, rounds: int) -> str:
    return (
        f"no noise reaches epsilon {settings.epsilon:g} at delta {settings.delta:g} in {rounds} rounds of sums of "
        f"{settings.members} devices, {settings.dimension} values and {settings.bits} bits: raise privacy.ring_bits "
        "(a finer grid), privacy.epsilon or privacy.delta, or take fewer rounds"
    )


def _positive(name: str, value: float) -> None:
    _check(name, value, math.isfinite(value) and value > 0, "a finite number above 0")


def _check(name: str, value: object, right: bool, wanted: str) -> None:
    if not right:
        raise ConfigError(f"privacy in a sum: {name} is {value!r}, wanted {wanted}")
