"""Several tasks, two levels and settled charges in the ledgers of one device."""

import time
from pathlib import Path

import pytest

from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.privacy import FileLedger, epsilon
from fedmesh.privacy.accountant import sampled_gaussian
from fedmesh.types import Ledger, PrivacyEvent

DELTA = 1e-5


def step(label: str, multiplier: float = 2.0) -> PrivacyEvent:
    return sampled_gaussian(0.25, multiplier, 4, label)


def summed(label: str, variance: float = 20_000.0, l2: float = 100.0) -> PrivacyEvent:
    return PrivacyEvent("skellam", {"l2": l2, "l1": 10_000.0, "variance": variance}, 1, label)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.ledger"


def opened(path: Path, **changes: object) -> FileLedger:
    return FileLedger(path, **{"epsilon": 8.0, "delta": DELTA, **changes})


def test_a_task_sees_what_it_spent_and_the_device_sees_all(path: Path) -> None:
    with opened(path) as ledger:
        digits = ledger.for_task("digits", epsilon=4.0, delta=DELTA)
        har = ledger.for_task("har", epsilon=4.0, delta=1e-6)
        typed: Ledger = digits
        typed.charge(step("digits/round-1"))
        digits.charge(step("digits/round-2"))
        har.charge(step("har/round-1", 3.0))
        two, one = [step(""), step("")], [step("", 3.0)]
        assert digits.epsilon() == digits.epsilon(DELTA) == epsilon(two, DELTA)
        assert har.epsilon() == epsilon(one, 1e-6)
        assert har.epsilon(DELTA) == ledger.epsilon(task="har") == epsilon(one, DELTA)
        assert ledger.epsilon() == epsilon(two + one, DELTA)
        assert ledger.epsilon(task="never") == 0
    with opened(path) as ledger:
        assert ledger.for_task("digits", epsilon=4.0, delta=DELTA).epsilon() == epsilon(two, DELTA)
        assert ledger.head.entries == 6


def test_a_task_cannot_spend_more_than_its_own_budget(path: Path) -> None:
    cost = epsilon([step("")] * 2, DELTA, "rdp")
    with opened(path) as ledger:
        task = ledger.for_task("digits", epsilon=cost, delta=DELTA)
        task.charge(step("digits/round-1"))
        task.charge(step("digits/round-2"))
        size = path.stat().st_size
        with pytest.raises(BudgetError, match=r"budget of task 'digits' is epsilon .*'digits/round-3'.*declines"):
            task.charge(step("digits/round-3"))
        assert path.stat().st_size == size
        ledger.for_task("har", epsilon=8.0, delta=DELTA).charge(step("har/round-1"))
    with opened(path) as ledger, pytest.raises(BudgetError, match="of task 'digits'"):
        ledger.charge(step("digits/round-3"))  # also past the task's own view of it


def test_tasks_together_cannot_spend_more_than_the_devices_budget(path: Path) -> None:
    cost = epsilon([step("")] * 2, DELTA, "rdp")
    with opened(path, epsilon=cost) as ledger:
        tasks = [ledger.for_task(name, epsilon=cost, delta=DELTA) for name in ("a", "b", "c")]
        tasks[0].charge(step("a/round-1"))
        tasks[1].charge(step("b/round-1"))
        with pytest.raises(BudgetError, match=r"budget is epsilon .*'c/round-1'"):
            tasks[2].charge(step("c/round-1"))


def test_a_tasks_budget_is_not_changed_on_the_way(path: Path) -> None:
    with opened(path) as ledger:
        ledger.for_task("digits", epsilon=4.0, delta=DELTA)
        entries = ledger.head.entries
        ledger.for_task("digits", epsilon=4.0, delta=DELTA)
        assert ledger.head.entries == entries == 2
    with opened(path) as ledger:
        for changed in ({"epsilon": 5.0, "delta": DELTA}, {"epsilon": 4.0, "delta": 1e-6}):
            with pytest.raises(ConfigError, match=r"'digits' has a budget of epsilon 4\.0 at delta 1e-05"):
                ledger.for_task("digits", **changed)


def test_a_tasks_budget_is_not_stated_below_what_was_charged_under_its_name(path: Path) -> None:
    """A ledger that says so would be one that nobody's checks let happen."""
    cost = epsilon([step("")], DELTA, "rdp")
    with opened(path) as ledger:
        ledger.charge(step("digits/round-1"))
        with pytest.raises(ConfigError, match=r"'digits' has spent epsilon .* state at least what was spent"):
            ledger.for_task("digits", epsilon=0.99 * cost, delta=DELTA)
        assert ledger.head.entries == 2
        ledger.for_task("digits", epsilon=cost, delta=DELTA)


@pytest.mark.parametrize("count", [0, -1])
def test_what_happens_less_than_once_is_not_charged(path: Path, count: int) -> None:
    with opened(path) as ledger:
        with pytest.raises(ConfigError, match=f"event of count {count} means nothing"):
            ledger.charge(sampled_gaussian(0.25, 2.0, count, "digits/round-1"))
        assert ledger.head.entries == 1


def test_in_format_1_a_tasks_budget_holds_for_as_long_as_it_is_given(path: Path) -> None:
    opening = b'{"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/1"}\n'
    path.write_bytes(b"5c1a27fda8ec7aba2d715631acf1b36df3f0f5463b93b2b26c4cc8b65811d1f1 " + opening)
    with opened(path) as ledger:
        task = ledger.for_task("digits", epsilon=epsilon([step("")], DELTA, "rdp"), delta=DELTA)
        task.charge(step("digits/round-1"))
        with pytest.raises(BudgetError, match="of task 'digits'"):
            task.charge(step("digits/round-2"))


def test_a_task_charges_under_its_own_name(path: Path) -> None:
    with opened(path) as ledger:
        task = ledger.for_task("digits", epsilon=4.0, delta=DELTA)
        assert repr(task).startswith("TaskLedger('digits', FileLedger(")
        for label in ("", "har/round-1", "digits2/round-1", "/digits"):
            with pytest.raises(ConfigError, match="label it digits/round-3"):
                task.charge(step(label))
        for name in ("", "a/b"):
            with pytest.raises(ConfigError, match="slash"):
                ledger.for_task(name, epsilon=4.0, delta=DELTA)
        with pytest.raises(ConfigError, match="means nothing"):
            ledger.for_task("a", epsilon=0.0, delta=DELTA)
        assert ledger.charges == ()


def test_a_release_of_a_task_is_paid_once(path: Path) -> None:
    with opened(path) as ledger:
        task = ledger.for_task("digits", epsilon=4.0, delta=DELTA)
        task.charge(step("digits/round-1"), release_id="r")
        task.charge(step("digits/round-1"), release_id="r")
        assert len(ledger.charges) == 1


@pytest.mark.parametrize("level", ["example", "client"])
def test_the_level_is_stated_once_and_for_all(path: Path, level: str) -> None:
    with opened(path, level=level) as ledger:
        assert ledger.level == level
    assert f'"level":"{level}"'.encode() in path.read_bytes()
    opened(path, level=level).close()
    other = "client" if level == "example" else "example"
    with pytest.raises(ConfigError, match=f"of the {level} level, the {other} level was asked for"):
        opened(path, level=other)


def test_what_a_sum_cost_in_truth_is_what_counts(path: Path) -> None:
    with opened(path, level="client") as ledger:
        task = ledger.for_task("digits", epsilon=8.0, delta=DELTA)
        assert ledger.last_charge is None
        task.charge(summed("digits/round-1"))
        charged = ledger.last_charge
        assert charged == 2
        task.charge(summed("digits/round-2"))
        ledger.settle(charged, summed("", 30_000.0))
        want = epsilon([summed("", 30_000.0), summed("")], DELTA, "rdp")
        assert ledger.epsilon() == task.epsilon() == want
        assert [c.event for c in ledger.charges] == [summed(""), summed("")]  # as they were entered
        assert ledger.last_charge == 3
    with opened(path, level="client") as ledger:
        assert ledger.epsilon() == ledger.epsilon(task="digits") == want


def test_what_is_settled_can_be_spent_again(path: Path) -> None:
    tight = epsilon([summed(""), summed("", 40_000.0)], DELTA, "rdp")
    with opened(path, level="client", epsilon=tight) as ledger:
        ledger.charge(summed("digits/round-1"))
        with pytest.raises(BudgetError):
            ledger.charge(summed("digits/round-2"))
        ledger.settle(1, summed("", 40_000.0))
        ledger.charge(summed("digits/round-2"))
        with pytest.raises(BudgetError):
            ledger.charge(summed("digits/round-3", 1e9))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (summed("", 19_999.0), "costs more: its variance"),
        (summed("", 30_000.0, l2=101.0), "costs more: its l2"),
        (PrivacyEvent("skellam", {"l2": 1.0, "variance": 1e9}), "other parameters"),
        (PrivacyEvent("gaussian", {"noise_multiplier": 1e9}), "another mechanism or count"),
        (PrivacyEvent("skellam", dict(summed("").parameters), 2), "another mechanism or count"),
    ],
)
def test_a_settlement_is_never_more_than_the_charge(path: Path, event: PrivacyEvent, why: str) -> None:
    with opened(path, level="client") as ledger:
        ledger.charge(summed("digits/round-1"))
        size = path.stat().st_size
        with pytest.raises(ConfigError, match=why):
            ledger.settle(1, event)
        assert path.stat().st_size == size
        ledger.settle(1, summed(""))  # as much as was charged


@pytest.mark.parametrize("entry", [0, 2, 3, 99, -1])
def test_only_a_charge_is_settled_and_only_once(path: Path, entry: int) -> None:
    with opened(path, level="client") as ledger:
        ledger.charge(summed("digits/round-1"))
        ledger.for_task("digits", epsilon=8.0, delta=DELTA)
        with pytest.raises(LedgerError, match="is no charge"):
            ledger.settle(entry, summed(""))
        ledger.settle(1, summed("", 30_000.0))
        with pytest.raises(LedgerError, match="was settled before"):
            ledger.settle(1, summed("", 40_000.0))


def test_a_release_that_is_repeated_after_it_was_settled_costs_what_was_charged(path: Path) -> None:
    """The second sum may have fewer survivors than the first, and nobody knows how many when it begins."""
    budget = epsilon([summed(""), summed("")], DELTA, "rdp")
    with opened(path, level="client", epsilon=budget) as ledger:
        ledger.charge(summed("digits/round-1"), release_id="r")
        ledger.charge(summed("digits/round-1"), release_id="r")
        ledger.settle(1, summed("", 30_000.0))
        ledger.charge(summed("digits/round-1"), release_id="r")
        assert ledger.epsilon() == epsilon([summed("")], DELTA, "rdp")
        entries = ledger.head.entries
        ledger.charge(summed("digits/round-1"), release_id="r")
        assert ledger.head.entries == entries
        with pytest.raises(LedgerError, match="was settled before"):
            ledger.settle(1, summed("", 30_000.0))
    with opened(path, level="client", epsilon=budget) as ledger:
        assert ledger.epsilon() == epsilon([summed("")], DELTA, "rdp")


def test_a_settled_release_is_not_repeated_when_the_rest_was_spent_elsewhere(path: Path) -> None:
    budget = epsilon([summed("", 40_000.0), summed("")], DELTA, "rdp")
    with opened(path, level="client", epsilon=budget) as ledger:
        ledger.charge(summed("digits/round-1"), release_id="r")
        ledger.settle(1, summed("", 40_000.0))
        ledger.charge(summed("digits/round-2"))
        with pytest.raises(BudgetError, match="digits/round-1"):
            ledger.charge(summed("digits/round-1"), release_id="r")


def test_a_charge_costs_as_much_at_the_end_of_a_long_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check adds to a running curve: what grows is the file alone."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    events = [step(f"digits/round-{n}", 40.0 + n % 7) for n in range(2000)]
    with opened(path) as ledger:
        for event in events[:7]:
            ledger.charge(event)  # curves are computed once
        times = []
        for start in range(7, 1987, 90):
            begun = time.process_time()
            for event in events[start : start + 90]:
                ledger.charge(event)
            times.append(time.process_time() - begun)
    # The quickest of some: a busy machine makes others slower.
    assert min(times[-8:]) < 3 * min(times[:8])
    assert min(times[-8:]) / 90 < 0.005  # 0.3 ms on an idle core


def test_a_settlement_that_nobody_can_account_for_is_not_entered(path: Path) -> None:
    with opened(path) as ledger:
        ledger.charge(summed("t/round-1"))
        with pytest.raises(ConfigError, match="means nothing"):
            ledger.settle(1, summed("", l2=0.0))
        ledger.charge(summed("t/round-2"))
