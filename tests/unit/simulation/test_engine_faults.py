"""Dropouts and stragglers: repeatable, at the rate asked for, and felt where a real one is."""

import pytest
import training
from flower_apps import instruction, plain_app

from fedmesh.errors import PeerError
from fedmesh.flower import InlineFleet
from fedmesh.simulation.faults import FaultyFleet
from fedmesh.simulation.scenario import FailuresSection

NODES = 40


def run(failures: FailuresSection, *, seed: int = 1, number: int = 1, backwards: bool = False) -> dict[int, str]:
    """Node -> reason of its failure, of all that failed in a round."""
    fleet = FaultyFleet(InlineFleet(plain_app(), NODES), failures, seed)
    nodes = list(fleet.node_ids)
    for node_id in reversed(nodes) if backwards else nodes:
        fleet.submit(training.train_message(node_id, training.start()[:4], number=number))
    replies = []
    while more := fleet.collect(None):
        replies += more
    assert len(replies) == NODES
    fleet.close()
    return {reply.metadata.src_node_id: reply.error.reason for reply in replies if reply.has_error()}


def test_without_failures_nothing_fails() -> None:
    assert run(FailuresSection()) == {}


def test_devices_drop_out_at_about_the_rate_asked_for() -> None:
    lost = [len(run(FailuresSection(dropout=0.3), number=number)) for number in range(1, 6)]
    assert 0.2 < sum(lost) / (5 * NODES) < 0.4


def test_who_fails_follows_from_seed_round_and_device_alone() -> None:
    failures = FailuresSection(dropout=0.3, straggler=0.3, straggler_delay_s=2.0, deadline_s=1.0)
    once = run(failures)
    assert once == run(failures)
    assert once == run(failures, backwards=True)
    assert once != run(failures, number=2)
    assert once != run(failures, seed=2)
    kinds = {reason.split(" (")[0].rsplit(",")[-1] for reason in once.values()}
    assert len(kinds) == 2


def test_a_late_answer_counts_as_lost_only_behind_the_deadline() -> None:
    late = FailuresSection(straggler=0.5, straggler_delay_s=2.0, deadline_s=1.0)
    assert 5 < len(run(late)) < 35
    assert "2 s late, the deadline was 1 s" in next(iter(run(late).values()))
    assert run(late.model_copy(update={"deadline_s": 3.0})) == {}
    assert run(late.model_copy(update={"deadline_s": None})) == {}


def test_a_device_that_drops_out_is_not_touched_and_a_late_one_is() -> None:
    inside = InlineFleet(plain_app(), NODES)
    fleet = FaultyFleet(inside, FailuresSection(dropout=0.99), seed=1)
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, training.start()[:4]))
    while fleet.collect(None):
        pass
    assert len(fleet.states()) < NODES / 4
    late = FaultyFleet(inside, FailuresSection(straggler=0.99, straggler_delay_s=2.0, deadline_s=1.0), seed=1)
    for node_id in late.node_ids:
        late.submit(training.train_message(node_id, training.start()[:4]))
    while late.collect(None):
        pass
    assert len(late.states()) == NODES
    late.restore({})
    assert inside.states() == {}


def test_a_node_that_is_not_there_cannot_drop_out() -> None:
    fleet = FaultyFleet(InlineFleet(plain_app(), 2), FailuresSection(dropout=0.99), seed=1)
    with pytest.raises(PeerError):
        fleet.submit(instruction(77))
