"""The least noise that a budget allows: multipliers found by bisection against RDP, which is what a ledger enforces.

With the multiplier returned, every one of the rounds is affordable, to the last digit; one that is 0.02 % smaller does
not fit. A discrete grid has a floor that no noise gets below (its rounding takes part of the budget): then the error
says how many ring bits would do.
"""

import math
from collections.abc import Callable

from fedmesh.errors import ConfigError
from fedmesh.privacy import renyi
from fedmesh.privacy.accountant import check_delta, epsilon, gaussian, sampled_gaussian
from fedmesh.privacy.skellam import dimension as padded
from fedmesh.privacy.skellam import granularity, sensitivity
from fedmesh.types import PrivacyEvent

__all__ = [
    "distributed_skellam",
    "gaussian_noise_multiplier",
    "noise_multiplier",
    "sampled_epsilon",
    "skellam_noise_multiplier",
    "smallest_multiplier",
]

_TOLERANCE = 1e-4  # relative, of the multiplier found
_LARGEST_MULTIPLIER = 1e6
_MOST_BITS = 30
_FINEST = 2.0**-30  # of the clip


def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier with which `steps` sampled Gaussian steps fit into (epsilon, delta), to 0.01 %.

    Raises:
        ConfigError: no multiplier below 1e6 fits.
    """

    def spent(multiplier: float) -> float:
        return _by_rdp(sampled_gaussian(sample_rate, multiplier, steps), delta)

    found = smallest_multiplier(spent, epsilon)
    if found is None:
        raise ConfigError(
            f"no noise reaches epsilon {epsilon:g} at delta {delta:g} in {steps} steps of sampling rate "
            f"{sample_rate:g}: raise epsilon or delta, or take fewer steps"
        )
    return found


def gaussian_noise_multiplier(*, epsilon: float, delta: float, rounds: int) -> float:
    """The smallest multiplier with which `rounds` sums with central Gaussian noise fit into (epsilon, delta).

    Raises:
        ConfigError: no multiplier below 1e6 fits.
    """
    found = smallest_multiplier(lambda multiplier: _by_rdp(gaussian(multiplier, rounds), delta), epsilon)
    if found is None:
        raise ConfigError(
            f"no noise reaches epsilon {epsilon:g} at delta {delta:g} in {rounds} rounds: raise epsilon or delta, or "
            "take fewer rounds"
        )
    return found


def skellam_noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    clients: int,
    dimension: int,
    bits: int,
    members: int | None = None,
    signal: float = 1.0,
    sample_rate: float = 1.0,
) -> float:
    """The smallest multiplier with which `rounds` sums with distributed Skellam noise fit into (epsilon, delta).

    Args:
        epsilon, delta: the budget.
        rounds: of the task.
        clients: honest inputs of a sum whose noise counts, n'.
        dimension: values of an update; padded to a power of two here.
        bits: of the ring that the sum is taken in.
        members: most inputs of a sum; None: `clients`.
        signal: largest norm of an input without its noise, in units of the clip; sizes the grid.
        sample_rate: of the clients, by Poisson and in secret; 1: they are not sampled.

    Returns:
        Standard deviation of the noise of all `clients` together, in units of the clip.

    Raises:
        ConfigError: the grid is too coarse for the budget, or no multiplier below 1e6 fits.
    """

    def found(ring_bits: int) -> float | None:
        def spent(multiplier: float) -> float:
            event, _gamma = distributed_skellam(
                noise_multiplier=multiplier,
                clients=clients,
                dimension=dimension,
                bits=ring_bits,
                rounds=rounds,
                members=members,
                signal=signal,
            )
            return sampled_epsilon(event, sample_rate, delta)

        return smallest_multiplier(spent, epsilon)

    multiplier = found(bits)
    if multiplier is not None:
        return multiplier
    enough = next((more for more in range(bits + 1, _MOST_BITS) if found(more) is not None), None)
    what = f"epsilon {epsilon:g} at delta {delta:g} in {rounds} rounds of sums of {members or clients} devices"
    if enough is None:
        raise ConfigError(f"no noise reaches {what}: raise epsilon or delta, or take fewer rounds")
    raise ConfigError(
        f"a ring of {bits} bits is too coarse for {what} and {padded(dimension)} values: raise the bits to {enough}, "
        "or raise epsilon"
    )


def distributed_skellam(
    *,
    noise_multiplier: float,
    clients: int,
    dimension: int,
    bits: int,
    rounds: int = 1,
    survivors: int | None = None,
    members: int | None = None,
    signal: float = 1.0,
) -> tuple[PrivacyEvent, float]:
    """What sums with distributed Skellam noise cost, and their grid.

    Args:
        noise_multiplier: standard deviation of the noise of all `clients` together, in units of the clip.
        survivors: honest inputs that the sum really has; None: `clients`. The noise's variance is in proportion.
        clients, dimension, bits, rounds, members, signal: as for `skellam_noise_multiplier`.

    Returns:
        The event of `rounds` sums, and gamma: what a ring unit stands for, as a share of the clip.

    Raises:
        ConfigError: a number is out of range, or the ring cannot hold the sum.
    """
    count = clients if survivors is None else survivors
    if not (clients >= 1 and count >= 1 and rounds >= 1 and 0 < noise_multiplier < math.inf):
        raise ConfigError(
            f"{clients} clients, {count} survivors, {rounds} rounds and a noise multiplier of {noise_multiplier} mean "
            "nothing: wanted at least 1 of each and a multiplier above 0"
        )
    size = padded(dimension)
    sigma = noise_multiplier / math.sqrt(clients)
    gamma = granularity(clip=signal, members=members or clients, dimension=size, sigma_local=sigma, bits=bits)
    if gamma < _FINEST:
        raise ConfigError(f"a ring of {bits} bits gives a grid finer than 64-bit integers can hold: lower the bits")
    bound = sensitivity(1.0, gamma, size)
    variance = count * (sigma / gamma) ** 2
    return PrivacyEvent("skellam", {"l1": bound.l1, "l2": bound.l2, "variance": variance}, rounds), gamma


def _by_rdp(event: PrivacyEvent, delta: float) -> float:
    return epsilon([event], delta, "rdp")


def sampled_epsilon(event: PrivacyEvent, sample_rate: float, delta: float) -> float:
    """Epsilon by RDP of `event` on a secret Poisson sample of the contributions, by the bound for any mechanism.

    Raises:
        ConfigError: as `fedmesh.privacy.epsilon`, or the rate is not in (0, 1].
    """
    if sample_rate == 1:
        return _by_rdp(event, delta)
    check_delta(delta)
    return renyi.epsilon_of(renyi.times(renyi.sampled_curve(renyi.key(event), sample_rate), event.count), delta)


def smallest_multiplier(spent: Callable[[float], float], budget: float) -> float | None:
    """The smallest noise multiplier, to 0.01 % and from 0.2 up, with ``spent(multiplier) <= budget``; None: none has.

    Raises:
        ConfigError: the budget means nothing, or `spent` refuses.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise ConfigError(f"the epsilon asked for is {budget}, it must be a finite number above 0")
    low = high = renyi.SMALLEST_MULTIPLIER
    while spent(high) > budget:
        low, high = high, 2 * high
        if high > _LARGEST_MULTIPLIER:
            return None
    while high > low * (1 + _TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return high
