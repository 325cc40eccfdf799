"""Whatever a network does to a session: the bitwise right sum over the survivors, or a typed abort; never a wrong sum.

A schedule is drawn by hypothesis: how many devices, their inputs (random, extreme or equal) and weights, who crashes in
which step, and how many messages are lost, doubled, delayed and overtaken, and how often devices restart.
"""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_sessions import Federation, header, names

from fedmesh.secagg import Policy, SecAggError
from fedmesh.secagg.aggregator import STEPS
from fedmesh.testing import MemoryNetwork

HARMLESS = {"turn", "replay"}  # of what comes late or twice
CAPS = st.sampled_from([1, 2, 255, 65535])


@st.composite
def federations(draw, count):
    """Inputs at the limits of the ring, or anywhere inside, with every weight that the cap allows."""
    cap = draw(CAPS)
    made = header(count, weight_cap=cap, length=draw(st.integers(1, 5)), min_cohort=draw(fewest(count)))
    bound = made.ring.largest_value(count, cap)
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs = {
        "any": lambda: chance.integers(-bound, bound, made.length, endpoint=True),
        "largest": lambda: np.full(made.length, bound),
        "smallest": lambda: np.full(made.length, -bound),
        "zero": lambda: np.zeros(made.length, np.int64),
    }
    kinds = [draw(st.sampled_from(sorted(inputs)))] * count if draw(st.booleans()) else list(inputs) * count
    vectors = {name: inputs[kind]().astype(np.int64) for name, kind in zip(made.cohort, kinds, strict=False)}
    weight = draw(st.sampled_from([lambda: 1, lambda: cap, lambda: int(chance.integers(1, cap, endpoint=True))]))
    return Federation(made, vectors, {name: weight() for name in made.cohort})


def fewest(count):
    """The threshold, now and then more."""
    threshold = header(count).threshold
    return st.just(threshold) | st.integers(threshold, count)


def crashes(count, most):
    return st.dictionaries(st.sampled_from(names(count)), st.sampled_from(STEPS), max_size=most)


def run(federation, network):
    """The result, checked against Python's integers; or the error of a round that was given up."""
    devices, aggregator = federation.devices(), federation.aggregator()
    try:
        result = network.run(aggregator, devices, federation.begin(devices))
    except SecAggError as error:
        assert aggregator.step == "aborted"
        assert aggregator.result is None
        return error
    finally:
        for device in devices.values():
            device.close()
    assert [*result.total.tolist(), result.weight] == federation.sum_over(result.survivors)
    assert result.total.dtype == np.int64
    assert len(result.survivors) >= federation.header.fewest
    result.verify(federation.header, federation.roster)
    assert {error.code for _, error in network.refused} <= HARMLESS
    return result


def check_crashes(federation, crashed):
    """On a good network the outcome is known: who crashed when decides it."""
    outcome = run(federation, MemoryNetwork(random.Random(1), crashes=crashed))
    before_the_sum = {name for name, step in crashed.items() if step in STEPS[:3]}
    left = len(federation.header.cohort) - len(before_the_sum)
    alive = len(federation.header.cohort) - len(crashed)
    if left < federation.header.fewest or alive < federation.header.threshold:
        assert isinstance(outcome, SecAggError)
        assert outcome.code == "threshold"
    else:
        assert outcome.survivors == tuple(name for name in federation.header.cohort if name not in before_the_sum)


def check_network(federation, seed, faults, crashed):
    reopen = federation.reopened if faults.get("restarts") else None
    outcome = run(federation, MemoryNetwork(random.Random(seed), crashes=crashed, reopen=reopen, **faults))
    if isinstance(outcome, SecAggError):
        assert outcome.code == "threshold"


FAULTS = st.fixed_dictionaries(
    {},
    optional={
        "loss": st.floats(0, 0.3),
        "duplication": st.floats(0, 1),
        "delay": st.integers(0, 120),
        "patience": st.integers(20, 150),
        "retries": st.integers(0, 3),
    },
)


@pytest.mark.parametrize(("count", "lost"), [(4, 0), (4, 1), (4, 2), (7, 2)])
def test_every_choice_of_crashes(count, lost):
    """Each device alone in each step at n = 4; beyond D = 1, and up to D = 2 at n = 7, a choice of devices."""
    who = itertools.combinations(names(count), lost) if count == 4 else [names(count)[1:3], names(count)[::6]]
    for devices in who:
        for steps in itertools.product(STEPS, repeat=lost):
            check_crashes(Federation.of(count), dict(zip(devices, steps, strict=True)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_crashes_among_four(data):
    check_crashes(data.draw(federations(4)), data.draw(crashes(4, 2)))


@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=80, deadline=None)
def test_bad_networks_among_four(data, seed, faults):
    check_network(data.draw(federations(4)), seed, faults, data.draw(crashes(4, 1)))


@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=50, deadline=None)
def test_bad_networks_among_seven(data, seed, faults):
    check_network(data.draw(federations(7)), seed, faults, data.draw(crashes(7, 3)))


@pytest.mark.exhaustive
@pytest.mark.slow
@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=1500, deadline=None)
def test_thousands_of_bad_networks_among_four(data, seed, faults):
    check_network(data.draw(federations(4)), seed, faults, data.draw(crashes(4, 2)))


@pytest.mark.exhaustive
@pytest.mark.slow
@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=400, deadline=None)
def test_hundreds_of_bad_networks_among_seven(data, seed, faults):
    check_network(data.draw(federations(7)), seed, faults, data.draw(crashes(7, 4)))


@pytest.mark.exhaustive
@pytest.mark.slow
@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=60, deadline=None)
def test_dozens_of_bad_networks_among_thirty_two(data, seed, faults):
    check_network(data.draw(federations(32)), seed, faults, data.draw(crashes(32, 14)))


@pytest.mark.slow
@given(st.data(), st.integers(0, 2**32), FAULTS)
@settings(max_examples=6, deadline=None)
def test_bad_networks_among_thirty_two(data, seed, faults):
    check_network(data.draw(federations(32)), seed, faults, data.draw(crashes(32, 14)))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_third_of_thirty_two_lost_in_one_step(step, beyond):
    lost = 32 - header(32).threshold + beyond
    check_crashes(Federation.of(32, weight_cap=255), dict.fromkeys(names(32)[5 : 5 + lost], step))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["mixed", "mask"])
def test_a_third_of_a_hundred_lost(step):
    """D = 33, as many as the threshold allows, spread over all steps or all after the shares."""
    federation = Federation.of(100, weight_cap=255)
    extreme = federation.header.ring.largest_value(100, 255)
    federation.vectors = {name: np.full(3, -extreme if step == "mask" else extreme) for name in names(100)}
    federation.weights = dict.fromkeys(names(100), 255)
    steps = itertools.cycle(STEPS if step == "mixed" else [step])
    check_crashes(federation, dict(zip(names(100)[10:43], steps, strict=False)))


@given(st.data(), st.integers(0, 2**32), st.floats(0.1, 1), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_devices_that_restart_between_steps(tmp_path_factory, data, seed, restarts, retries):
    """All that goes on is the sealed state and the store; a device whose answer was lost may be lost, no more."""
    federation = data.draw(federations(4))
    federation.folder = tmp_path_factory.mktemp("stores")
    faults = {"restarts": restarts, "retries": retries, "duplication": 0.3, "delay": 5}
    check_network(federation, seed, faults, data.draw(crashes(4, 1)))


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_inputs_that_come_while_keys_are_exchanged(order, moments, restarted):
    """A device joins first and brings its input at a moment of its own: before the keys, the shares, or after both."""
    federation = Federation.of(4, model_hash=None, scale_hash=None)
    devices, aggregator = federation.devices(), federation.aggregator()
    hashes = {"model_hash": b"model", "scale_hash": b"scale"}
    masked = {}

    def supply(name, moment):
        if moment == moments[names(4).index(name)]:
            masked[name] = devices[name].supply(federation.vectors[name], 1, **hashes)

    down = [(name, devices[name].join(federation.header)) for name in names(4)]
    aggregator.bind(**hashes)
    for name in names(4):
        supply(name, 0)
    for moment in (1, 2):
        down = exchange(aggregator, [down[place] for place in order])
        answers = []
        for name, message in down:
            answers.append((name, devices[name].handle(message)))
            supply(name, moment)
        down = answers
    for name in names(4):
        supply(name, 3)
    down = [(name, answer or masked[name]) for name, answer in down]
    for _ in ("survivors", "quorum"):
        down = [(name, devices[name].handle(message)) for name, message in exchange(aggregator, down)]
    exchange(aggregator, down)
    assert aggregator.result.total.tolist() == federation.sum_over(names(4))[:-1]
    aggregator.result.verify(federation.header, federation.roster)


def exchange(aggregator, up):
    return [sent for name, message in up for sent in aggregator.handle(name, message)]


@pytest.mark.parametrize("which", ["model_hash", "scale_hash"])
def test_inputs_for_different_models_are_never_summed(which):
    """Two devices trained on another model: there are signatures for neither, and nothing comes out."""
    federation = Federation.of(4, model_hash=None, scale_hash=None)
    devices, aggregator = federation.devices(), federation.aggregator()
    hashes = {"model_hash": b"model", "scale_hash": b"scale"}
    aggregator.bind(**hashes)
    up = [(name, device.join(federation.header)) for name, device in devices.items()]
    for place, name in enumerate(names(4)):
        devices[name].supply(federation.vectors[name], 1, **{**hashes, **({which: b"other"} if place > 1 else {})})
    for _ in ("keys", "deliveries"):
        up = [(name, devices[name].handle(message)) for name, message in exchange(aggregator, up)]
    up = [(name, devices[name].handle(message)) for name, message in exchange(aggregator, up)]
    refused = 0
    for name, message in up:
        try:
            aggregator.handle(name, message)
        except SecAggError as error:
            refused += error.code == "consistency"
    assert refused == 2
    with pytest.raises(SecAggError) as caught:
        aggregator.advance()
    assert caught.value.code == "threshold"
    assert aggregator.result is None


def test_the_default_policy_takes_no_smaller_threshold_than_the_schedules_use():
    for count in (4, 7, 32, 100):
        assert header(count).threshold == 2 * count // 3 + 1
        Policy().check(header(count), Federation.of(count).roster, names(count)[0])
