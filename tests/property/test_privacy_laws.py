"""Laws of accounting, of the ledger's chain and of clipping."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.privacy import Anchor, FileLedger, epsilon, renyi
from fedmesh.privacy.accountant import sampled_gaussian
from fedmesh.privacy.chain import Charge, entry_line, opening_line, parse
from fedmesh.privacy.clipping import add_clipped
from fedmesh.privacy.entries import Entry, Opening, Settlement, TaskBudget
from fedmesh.types import PrivacyEvent

DELTA = 1e-5
EVENTS = st.builds(
    sampled_gaussian, st.sampled_from([0.05, 0.25, 1.0]), st.sampled_from([1.0, 2.0, 8.0]), st.integers(1, 20)
)
HISTORIES = st.lists(EVENTS, max_size=6)


def by_rdp(events: list[PrivacyEvent]) -> float:
    return epsilon(events, DELTA, "rdp")


@settings(deadline=None, max_examples=60)
@given(HISTORIES, HISTORIES)
def test_spending_more_costs_more(first: list[PrivacyEvent], more: list[PrivacyEvent]) -> None:
    """epsilon(a) <= epsilon(a + b), strictly for b not empty."""
    assert (by_rdp(first) < by_rdp(first + more)) == bool(more)


@settings(deadline=None, max_examples=60)
@given(HISTORIES, st.randoms(use_true_random=False))
def test_order_does_not_matter(events: list[PrivacyEvent], shuffler: object) -> None:
    shuffled = list(events)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert by_rdp(shuffled) == by_rdp(events)


@settings(deadline=None, max_examples=60)
@given(HISTORIES, HISTORIES)
def test_two_histories_cost_at_most_the_sum_of_both_at_twice_the_delta(
    first: list[PrivacyEvent], second: list[PrivacyEvent]
) -> None:
    """Basic composition bounds every other: epsilon(a + b, 2 delta) <= epsilon(a, delta) + epsilon(b, delta)."""
    together = epsilon(first + second, 2 * DELTA, "rdp")
    assert together <= by_rdp(first) + by_rdp(second) + 1e-9


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0.05, 0.25, 1.0]), st.floats(0.5, 20.0), st.floats(1.01, 3.0), st.integers(1, 50))
def test_more_noise_costs_less(rate: float, multiplier: float, factor: float, count: int) -> None:
    assert by_rdp([sampled_gaussian(rate, multiplier * factor, count)]) < by_rdp(
        [sampled_gaussian(rate, multiplier, count)]
    )


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
CHARGES = st.builds(
    Charge,
    st.builds(
        PrivacyEvent,
        st.text(max_size=20),
        st.dictionaries(st.text(max_size=10), NUMBERS, max_size=3),
        st.integers(1, 2**40),
        st.text(max_size=50),
    ),
    st.none() | st.text(max_size=32),
)


ENTRIES = st.lists(
    CHARGES
    | st.builds(TaskBudget, st.text("abc", min_size=1, max_size=4), st.floats(0.1, 9.0), st.floats(1e-9, 0.5))
    | st.builds(Settlement, st.just(1), CHARGES.map(lambda charge: PrivacyEvent("m", charge.event.parameters))),
    max_size=4,
).map(lambda entries: [Charge(PrivacyEvent("m", {})), *entries])
OPENINGS = st.builds(Opening, st.floats(0.1, 9.0), st.floats(1e-9, 0.5), st.sampled_from(["example", "client"]))


def written(entries: list[Entry], opening: Opening) -> bytes:
    data, head = opening_line(opening)
    for entry in entries:
        line, head = entry_line(entry, head)
        data += line
    return data


@settings(deadline=None, max_examples=200)
@given(ENTRIES, OPENINGS)
def test_what_was_written_is_read(entries: list[Entry], opening: Opening) -> None:
    chain = parse(written(entries, opening))
    assert list(chain.entries) == entries
    charges = [entry for entry in entries if isinstance(entry, Charge)]
    assert list(chain.charges) == charges
    assert [c.event.label for c in chain.charges] == [c.event.label for c in charges]
    assert chain.opening == opening
    assert [head.entries for head in chain.heads] == list(range(1, len(entries) + 2))


@settings(deadline=None, max_examples=200)
@given(ENTRIES, OPENINGS, st.floats(0, 1))
def test_a_crash_at_any_byte_leaves_whole_entries(entries: list[Entry], opening: Opening, share: float) -> None:
    """The entries of a prefix of the file are a prefix of the entries, and its size is that of whole lines."""
    data = written(entries, opening)
    cut = data[: int(share * len(data))]
    chain = parse(cut)
    assert list(chain.entries) == entries[: len(chain.entries)]
    assert cut[: chain.size] == b"".join(cut.splitlines(keepends=True)[: len(chain.heads)])
    assert b"\n" not in cut[chain.size :]


CURVES = arrays(
    np.int64, renyi.ORDERS.size, elements=st.integers(0, 1 << 40) | st.integers(0, 1 << 61) | st.just(1 << 61)
)


@settings(deadline=None, max_examples=100)
@given(CURVES, CURVES, CURVES, st.integers(1, 10**6), st.integers(1, 10**20))
def test_curves_add_exactly(a: renyi.Curve, b: renyi.Curve, c: renyi.Curve, few: int, many: int) -> None:
    """added is associative and commutative, nothing() is its zero, and times is repeated addition."""
    assert (renyi.added(a, renyi.added(b, c)) == renyi.added(renyi.added(a, b), c)).all()
    assert (renyi.added(a, b) == renyi.added(b, a)).all()
    assert (renyi.added(a, renyi.nothing()) == a).all()
    for count in (few, many):
        exact = [min(int(value) * count, 1 << 61) for value in a]
        assert (renyi.times(a, count) == exact).all()
        assert (renyi.times(a, count + 1) == renyi.added(renyi.times(a, count), a)).all()


VARIANCES = st.sampled_from([20_000.0, 30_000.0, 50_000.0])
ACTIONS = st.lists(
    st.tuples(st.just("charge"), st.sampled_from("ab"), VARIANCES)
    | st.tuples(st.just("settle"), st.integers(1, 8), VARIANCES)
    | st.tuples(st.just("open"), st.none(), st.none()),
    max_size=12,
)


def summed(variance: float, label: str = "") -> PrivacyEvent:
    return PrivacyEvent("skellam", {"l2": 100.0, "l1": 1e4, "variance": variance}, 1, label)


@settings(deadline=None, max_examples=60)
@given(ACTIONS)
def test_a_ledger_is_the_sum_of_what_was_let_in(actions: list[tuple]) -> None:
    """Against a plain list: what is refused leaves no trace, no budget is ever passed, reopening changes nothing."""
    model: dict[int, tuple[str, float]] = {}  # entry -> task, variance that counts
    settled: set[object] = set()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        anchor = Anchor.create(Path(folder) / "device.anchor")

        def opened() -> FileLedger:
            return stack.enter_context(
                FileLedger(Path(folder) / "l", epsilon=8.0, delta=DELTA, level="client", anchor=anchor)
            )

        ledger = opened()
        for what, where, variance in actions:
            if what == "open":
                ledger.close()
                ledger = opened()
                continue
            try:
                act(ledger, where, variance)
            except (BudgetError, ConfigError, LedgerError):
                continue
            if what == "charge":
                model[ledger.last_charge] = (where, variance)
            else:
                assert where not in settled
                assert variance >= model[where][1]
                settled.add(where)
                model[where] = (model[where][0], variance)
            for name, budget in ((None, 8.0), ("a", 6.0), ("b", 6.0)):
                spent = by_rdp([summed(v) for task, v in model.values() if name in {None, task}])
                assert ledger.epsilon(task=name) == spent <= budget
            assert anchor.heads() == {"client": ledger.head}


def act(ledger: FileLedger, where: str | int, variance: float) -> None:
    if isinstance(where, str):
        ledger.for_task(where, epsilon=6.0, delta=DELTA).charge(summed(variance, f"{where}/round"))
    else:
        ledger.settle(where, summed(variance))


ROWS = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.floats(width=32))


def clipped_sum(rows: np.ndarray, clip: float, split: int) -> torch.Tensor:
    """The clipped sum of `rows`, given as two parameters' parts."""
    total = torch.zeros(rows.shape[1])
    split %= rows.shape[1]
    gradients = torch.from_numpy(rows.copy())
    parts = [slice(None, split), slice(split, None)]
    add_clipped([total[p] for p in parts], [gradients[:, p] for p in parts], clip)
    return total


@settings(deadline=None, max_examples=300)
@given(ROWS, st.floats(1e-3, 1e3), st.integers(0, 7))
def test_no_row_adds_more_than_the_clip(rows: np.ndarray, clip: float, split: int) -> None:
    for row in rows:
        total = clipped_sum(row[None], clip, split)
        assert torch.isfinite(total).all()
        assert float(total.double().norm()) <= clip * (1 + 1e-5)
        if not np.isfinite(row).all():
            assert not total.any()


@settings(deadline=None, max_examples=200)
@given(ROWS, st.floats(1e-2, 1e2), st.integers(0, 7))
def test_the_clipped_sum_is_the_sum_of_clipped_rows(rows: np.ndarray, clip: float, split: int) -> None:
    """Whatever the others are, a row adds what it adds alone, and the split into parameters makes no difference."""
    alone = sum(clipped_sum(row[None], clip, 0) for row in rows)
    torch.testing.assert_close(clipped_sum(rows, clip, split), alone, rtol=1e-4, atol=1e-4 * clip)


@settings(deadline=None, max_examples=200)
@given(arrays(np.float32, (3, 5), elements=st.floats(-10, 10, width=32)))
def test_small_rows_are_left_as_they_are(rows: np.ndarray) -> None:
    torch.testing.assert_close(clipped_sum(rows, 1000.0, 2).numpy(), rows.sum(0), rtol=1e-5, atol=1e-5)
