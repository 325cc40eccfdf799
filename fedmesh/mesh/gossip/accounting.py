"""What a step of gossip costs a device, and how its noise is sized.

* ``local``: a step is `DpSettings.steps` steps of DP-SGD; groups, neighbours and order do not matter to the figure.
* ``shared``: a step is one sum of the distributed Skellam mechanism. The noise of a sum is that of *its group's* honest
  members and of nobody else: each group carries all of it, as a whole federation would. Charged before the step, for
  the smallest sum that a group may release.

A device is in one sum a step, so T steps cost T events, whoever it meets. Not claimed: amplification by
decentralization (Cyffers and Bellet 2022). It is a promise against single curious members that do not pool what they
see, weaker than what the ledger states, and groups that are dealt from a beacon are known to all.
"""

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip.dealing import MIN_GROUP, deal
from fedmesh.privacy.summed import SumSettings, calibrated
from fedmesh.secagg.header import SessionHeader

__all__ = ["fewest_in_sum", "group_sizes", "shared_settings", "threshold_for"]


def threshold_for(cohort: int, group: int) -> int:
    """Shares that reconstruct a secret in a session of `cohort` members of a `group` that was dealt.

    It bears the colluders that the whole group may have, 2t > cohort + C: a leader in league with some of its group
    gains nothing by leaving the others out.
    """
    least = (cohort + SessionHeader.colluders_for(group)) // 2 + 1
    return max(least, SessionHeader.threshold_for(cohort))


def fewest_in_sum(cohort: int, group: int, floor: int = MIN_GROUP) -> int:
    """Inputs that a sum of such a session needs: the threshold, and never below 4."""
    return max(MIN_GROUP, floor, threshold_for(cohort, group))


def group_sizes(members: int, smallest: int) -> tuple[int, int]:
    """Sizes of the smallest and the largest group. Raises: ConfigError: as `deal`."""
    sizes = [len(group) for group in deal(b"", 0, [f"{number}" for number in range(members)], smallest)]
    return min(sizes), max(sizes)


def shared_settings(
    *,
    members: int,
    smallest: int,
    lost: int,
    colluders: int,
    steps: int,
    epsilon: float,
    delta: float,
    clip: float,
    size: int,
    learning_rate: float,
    expected_batch: float,
    bits: int = 24,
) -> SumSettings:
    """The settings with the least noise with which `steps` steps fit into the budget.

    Args:
        members, smallest: of the run and of a group, see `deal`.
        lost: members of a group that may be missing in its sum.
        colluders: members *of one group* that are assumed to subtract their noise.
        steps: of the run. epsilon, delta: a device's budget for all of them.
        clip: of an example's gradient. size: weights, P.
        learning_rate, expected_batch: public; the mean gradient is the sum over count * expected_batch.
        bits: of the ring.

    Raises:
        ConfigError: nobody honest is left in a group, or no noise fits the budget.
    """
    least, most = group_sizes(members, smallest)
    honest = least - lost - colluders
    if min(lost, colluders) < 0 or honest < 1 or least - lost < MIN_GROUP:
        raise ConfigError(
            f"a group of {least} of which {lost} are lost and {colluders} collude: wanted at least {MIN_GROUP} in a "
            "sum and one of them honest; make the groups larger"
        )

    def at(multiplier: float, gamma: float) -> SumSettings:
        return SumSettings(
            level="example",
            epsilon=epsilon,
            delta=delta,
            clip=clip,
            noise_multiplier=multiplier,
            honest=honest,
            colluders=colluders,
            members=most,
            size=size,
            bits=bits,
            gamma=gamma,
            expected_batch=expected_batch,
            step=learning_rate,
        )

    return calibrated(at, rounds=steps, signal=max(1.0, expected_batch))
