"""What a result says about secure aggregation, from the journal's records."""

import pytest
import training

from fedmesh.coordinator import RoundRecord
from fedmesh.coordinator.records import SessionRecord, StageRecord
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.plan import make_task
from fedmesh.federation.rounds import describe_steps
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.securing import describe_secure_aggregation


def scenario(**tables):
    return Scenario.parse({"name": "small", **tables}, source="test")


def described(records, **tables):
    chosen = scenario(**tables)
    task = make_task(chosen, PublicStart(training.start(), {}), (1, 8, 8), 10)
    return describe_secure_aggregation(chosen, task, records)


RECORDS = [
    RoundRecord(0),
    RoundRecord(1, sessions=(SessionRecord(0, 1, 10, 9),)),
    RoundRecord(2, sessions=(SessionRecord(0, 1, 10, 0, "threshold: too few"), SessionRecord(0, 2, 7, 6))),
    RoundRecord(3, failed="no", sessions=(SessionRecord(0, 1, 10, 0, "threshold: too few"),)),
]


def test_off_it_says_so_and_nothing_else():
    assert described(RECORDS, secure_aggregation={"enabled": False}) == {"enabled": False}


def test_sessions_sums_and_aborts():
    told = described(RECORDS)
    assert (told["sessions"], told["sums"], told["smallest_sum"]) == (4, 2, 6)
    assert (told["largest_session"], told["threshold"], told["colluders"]) == (10, 7, 3)
    assert told["grouped"] is False
    assert told["aborts"] == [
        {"round": 2, "group": 0, "attempt": 1, "devices": 10, "reason": "threshold: too few"},
        {"round": 3, "group": 0, "attempt": 1, "devices": 10, "reason": "threshold: too few"},
    ]
    assert "simulation only" in told["keys"]


def test_a_run_that_came_to_no_session():
    told = described(RECORDS[:1])
    assert (told["sessions"], told["sums"], told["smallest_sum"], told["aborts"]) == (0, 0, None, [])


def test_groups_are_told():
    groups = (SessionRecord(0, 1, 5, 5), SessionRecord(1, 1, 4, 4))
    told = described([RoundRecord(1, sessions=groups)], secure_aggregation={"group_size": 5})
    assert (told["grouped"], told["group_size"], told["largest_session"], told["smallest_sum"]) == (True, 5, 5, 4)


@pytest.mark.parametrize(("weighting", "cap"), [("uniform", 1), ("examples", 40)])
def test_the_weight_cap_is_the_one_that_counts(weighting, cap):
    told = described([], strategy={"weighting": weighting}, secure_aggregation={"weight_cap": 40})
    assert told["weight_cap"] == cap


def test_steps_are_summed_up_in_the_order_of_the_protocol():
    stages = [
        StageRecord("train", 4, 4, 400, 4000, 1.0),
        StageRecord("evaluate", 4, 4, 1, 1, 0.5),
        StageRecord("advertise", 4, 3, 30, 40, 0.25),
        StageRecord("train", 3, 2, 200, 3000, 2.0),
    ]
    advertise, train, evaluate = describe_steps(stages)
    assert train == {
        "step": "train", "devices": 7, "replies": 6, "bytes_up": 600, "bytes_down": 7000, "seconds": 3.0, "times": 2,
    }  # fmt: skip
    assert (advertise["step"], evaluate["step"]) == ("advertise", "evaluate")
