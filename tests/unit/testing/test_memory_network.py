"""The network does to messages what it was told to, and the same again for the same seed."""

import random

import pytest
from secagg_sessions import Federation, names

from fedmesh.errors import SecAggError
from fedmesh.testing import MemoryNetwork

SEVEN = names(7)


def run(network, federation=None):
    federation = federation or Federation.of(7)
    devices, aggregator = federation.devices(), federation.aggregator()
    result = network.run(aggregator, devices, federation.begin(devices))
    assert [*result.total.tolist(), result.weight] == federation.sum_over(result.survivors)
    return result, aggregator


def network(seed=1, **faults):
    return MemoryNetwork(random.Random(seed), **faults)


def test_a_good_network_carries_every_message_once():
    used = network()
    result, aggregator = run(used)
    assert result.survivors == SEVEN
    assert used.delivered == 7 * 9
    assert used.refused == []
    assert aggregator.lost == {}


def test_the_same_seed_gives_the_same_schedule():
    faults = {"loss": 0.05, "duplication": 0.5, "delay": 30, "retries": 2}
    first, second, other = (network(seed, **faults) for seed in (4, 4, 5))
    outcomes = [run(used)[0].survivors for used in (first, second)]
    run(other)
    assert outcomes[0] == outcomes[1]
    assert first.delivered == second.delivered
    assert other.delivered != first.delivered


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "sign", "unmask"])
def test_a_device_that_crashes_is_lost_in_that_step(step):
    result, aggregator = run(network(crashes={SEVEN[2]: step}))
    assert aggregator.lost == {SEVEN[2]: step}
    assert (SEVEN[2] in result.survivors) == (step in {"sign", "unmask"})


def test_a_network_that_loses_everything_ends_the_round():
    with pytest.raises(SecAggError) as caught:
        run(network(loss=1.0))
    assert caught.value.code == "threshold"


def test_asking_again_makes_up_for_loss():
    survivors = [len(run(network(seed, loss=0.2, retries=12))[0].survivors) for seed in range(5)]
    assert survivors == [7] * 5


def test_what_comes_twice_and_late_is_refused_or_dropped():
    used = network(duplication=1.0, delay=80, patience=100)
    result, _ = run(used)
    assert result.survivors == SEVEN
    assert used.delivered > 7 * 9
    assert {error.code for _, error in used.refused} <= {"turn", "replay"}


def test_devices_that_are_too_slow_are_lost():
    lost = [run(network(seed, delay=60, patience=112))[1].lost for seed in range(8)]
    assert any(lost)
    assert not all(lost)


def test_devices_restart_between_messages(tmp_path):
    federation, reopened = Federation.of(7, folder=tmp_path), []

    def reopen(device):
        reopened.append(device.name)
        return federation.reopened(device)

    result, _ = run(network(reopen=reopen, restarts=1.0), federation)
    assert result.survivors == SEVEN
    assert sorted(reopened) == sorted(SEVEN * 4)
