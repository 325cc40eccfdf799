"""The journal says what was spent: ledgers that hold less are refused."""

from dataclasses import replace

import pytest

from fedmesh.coordinator import RoundRecord
from fedmesh.coordinator.records import SessionRecord
from fedmesh.errors import LedgerError
from fedmesh.simulation.spending import check_spent


def record(number, epsilon, *, clients=3, failures=()):
    return RoundRecord(number, clients=clients, evaluation={"epsilon": epsilon}, failures=failures)


RECORDS = [record(0, 0.0, clients=0), record(1, 2.0), record(2, 3.0)]


def test_ledgers_that_hold_all_of_it_or_more_pass():
    check_spent(RECORDS, {0: 3.0, 1: 3.0, 2: 3.0}, 3)
    check_spent(RECORDS, {0: 3.5, 1: 3.0, 2: 3.5}, 3)  # a round was under way
    check_spent(RECORDS[:1], {}, 3)


@pytest.mark.parametrize("spent", [{}, {0: 3.0, 1: 3.0}, {0: 3.0, 1: 2.0, 2: 3.0}])
def test_a_lost_or_shortened_ledger(spent):
    with pytest.raises(LedgerError, match="entries are lost"):
        check_spent(RECORDS, spent, 3)


def test_a_device_that_fell_out_of_a_round_may_have_spent_less():
    records = [*RECORDS[:2], record(2, 3.0, failures=((1, "dropped out"),))]
    check_spent(records, {0: 3.0, 1: 2.0, 2: 3.0}, 3)
    with pytest.raises(LedgerError, match="device 1"):
        check_spent(records, {0: 3.0, 2: 3.0}, 3)


@pytest.mark.parametrize("change", [{"failed": "no"}, {"sessions": (SessionRecord(0, 1, 3, 0, "too few"),)}])
def test_in_a_round_that_was_given_up_a_device_may_not_have_come_to_train(change):
    records = [*RECORDS[:2], replace(RECORDS[2], **change)]
    check_spent(records, {0: 3.0, 1: 2.0, 2: 2.0}, 3)
    with pytest.raises(LedgerError, match="device 1"):
        check_spent(records, {0: 3.0, 1: 1.0, 2: 2.0}, 3)


def test_a_second_attempt_that_came_to_its_sum_counts():
    sessions = (SessionRecord(0, 1, 3, 0, "too few"), SessionRecord(0, 2, 3, 3))
    with pytest.raises(LedgerError, match="device 1"):
        check_spent([*RECORDS[:2], replace(RECORDS[2], sessions=sessions)], {0: 3.0, 1: 2.0, 2: 3.0}, 3)


def test_of_a_share_of_the_devices_only_the_largest_is_known():
    records = [record(0, 0.0, clients=0), record(1, 2.0, clients=1)]
    check_spent(records, {1: 2.0}, 3)
    with pytest.raises(LedgerError, match="together"):
        check_spent(records, {}, 3)
