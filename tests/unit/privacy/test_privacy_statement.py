"""A ledger as it is read by whoever looks: without a lock, without a trace, and with the same figures."""

from pathlib import Path

import pytest

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy import FileLedger, Head, epsilon
from fedmesh.privacy.accountant import gaussian
from fedmesh.privacy.entries import Charge, Settlement, TaskBudget
from fedmesh.privacy.statement import Statement
from fedmesh.types import PrivacyEvent

SUM = PrivacyEvent("skellam", {"l2": 100.0, "l1": 1e4, "variance": 2e4}, 1, "digits/round-1")
SETTLED = PrivacyEvent("skellam", {"l2": 100.0, "l1": 1e4, "variance": 4e4})
CENTRAL = gaussian(4.0, 2, "har/round-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with FileLedger(tmp_path / "device-0.client.ledger", epsilon=8.0, delta=1e-5, level="client") as ledger:
        ledger.for_task("digits", epsilon=4.0, delta=1e-6).charge(SUM)
        ledger.settle(2, SETTLED)
        ledger.charge(CENTRAL)
    return tmp_path / "device-0.client.ledger"


def test_it_says_what_the_ledger_says(path: Path) -> None:
    before = path.stat()
    statement = Statement(path)
    assert (statement.opening.epsilon, statement.opening.level) == (8.0, "client")
    assert [type(row.entry) for row in statement.rows()] == [TaskBudget, Charge, Settlement, Charge]
    assert [row.number for row in statement.rows()] == [1, 2, 3, 4]
    wanted = [epsilon(events, 1e-5, "rdp") for events in ([], [SUM], [SETTLED], [SETTLED, CENTRAL])]
    assert [row.spent for row in statement.rows()] == wanted
    whole = statement.whole()
    assert (whole.charges, whole.budget, whole.rdp, whole.pld) == (2, 8.0, wanted[-1], None)
    assert whole.left == 8.0 - wanted[-1]
    assert whole.reported == wanted[-1]
    digits, har = statement.tasks()
    assert (digits.name, digits.charges, digits.budget, digits.delta) == ("digits", 1, 4.0, 1e-6)
    assert digits.rdp == epsilon([SETTLED], 1e-6, "rdp")
    assert (har.name, har.charges, har.budget, har.left, har.delta) == ("har", 1, None, None, 1e-5)
    assert har.pld == har.reported == epsilon([CENTRAL], 1e-5)
    statement.check_budgets()
    with FileLedger(path, epsilon=8.0, delta=1e-5, level="client") as ledger:
        assert (statement.entries, statement.digest) == (ledger.head.entries, ledger.head.digest)
        assert ledger.epsilon() == whole.reported
        assert Statement(path).whole() == whole  # it is held, and read all the same
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_an_interrupted_write_is_left_out_and_left_alone(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    statement = Statement(path)
    assert statement.entries == 4
    assert statement.torn_bytes == len(whole.splitlines(keepends=True)[-1]) - 5
    assert path.read_bytes() == whole[:-5]


def test_what_is_no_whole_ledger_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Statement(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(LedgerError, match="file is empty"):
        Statement(tmp_path / "empty")
    path.write_bytes(path.read_bytes().replace(b"40000.0", b"90000.0"))
    with pytest.raises(LedgerError, match="entry 3 does not follow"):
        Statement(path)


def test_a_head_kept_elsewhere_is_looked_for(path: Path) -> None:
    statement = Statement(path)
    statement.check_contains(None)
    statement.check_contains(Head(statement.entries, statement.digest))
    for head in (Head(statement.entries + 1, statement.digest), Head(statement.entries, 64 * "0")):
        with pytest.raises(LedgerError, match="rolled back or replaced"):
            statement.check_contains(head)


def test_more_than_the_budget_was_not_written_by_a_ledger(tmp_path: Path) -> None:
    from fedmesh.privacy.chain import entry_line, opening_line
    from fedmesh.privacy.entries import Opening

    for event, why in (
        (gaussian(3.5), r"spent epsilon 1\.\d+ of 1:"),
        (PrivacyEvent("odd", {}), "cannot be accounted"),
    ):
        line, head = opening_line(Opening(1.0, 1e-5))
        (tmp_path / "forged").write_bytes(line + entry_line(Charge(event), head)[0])
        statement = Statement(tmp_path / "forged")
        with pytest.raises(LedgerError, match=why):
            statement.check_budgets()
    assert statement.rows()[0].spent is None
    assert (statement.whole().reported, statement.whole().left) == (None, None)
