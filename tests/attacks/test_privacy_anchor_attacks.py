"""Somebody puts back an older ledger, takes it away, or goes for the anchor: what shows, and what cannot."""

import shutil
from pathlib import Path

import pytest

from fedmesh.client.identities import anchor_path, create_identities
from fedmesh.client.ledgers import ledger_path, open_ledger
from fedmesh.errors import LedgerError
from fedmesh.privacy import DpSettings, FileLedger
from fedmesh.privacy.settings import Budget, Level
from fedmesh.simulation.spending import spent_by_device

ROUND = DpSettings(8.0, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")
BUDGET = Budget("example", 8.0, 1e-5)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device with an identity and three charges on each level."""
    create_identities(tmp_path / "identities", 2)
    (tmp_path / "ledgers").mkdir()
    for level in ("example", "client"):
        with opened(tmp_path, level) as ledger:
            for _ in range(3):
                ledger.charge(ROUND)
    return tmp_path


def opened(device: Path, level: Level = "example", number: int = 0) -> FileLedger:
    ledgers, identities = device / "ledgers", device / "identities"
    return open_ledger(ledgers, number, level=level, epsilon=8.0, delta=1e-5, identities=identities)


def ledger_of(device: Path, level: Level = "example") -> Path:
    return ledger_path(device / "ledgers", 0, level)


def anchor_of(device: Path) -> Path:
    return anchor_path(device / "identities", "device-0")


def test_every_shorter_ledger_is_refused_and_not_touched(device: Path) -> None:
    path = ledger_of(device)
    whole = path.read_bytes()
    ends = [0] + [index + 1 for index, byte in enumerate(whole) if byte == 0x0A]
    for end in [*ends[:-1], ends[-1] - 1, ends[-2] + 7, 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(LedgerError, match=r"rolled back or replaced: 4 entries .* must not train"):
            opened(device)
        assert path.read_bytes() == whole[:end]
    path.write_bytes(whole)
    opened(device).close()


@pytest.mark.parametrize("level", ["example", "client"])
def test_a_ledger_that_was_taken_away_is_missed_and_not_made_anew(device: Path, level: Level) -> None:
    ledger_of(device, level).unlink()
    with pytest.raises(LedgerError, match=r"is missing, and the anchor .* knows 4 entries of it: put it back"):
        opened(device, level)
    assert not ledger_of(device, level).exists()
    with pytest.raises(LedgerError, match="is missing"):
        spent_by_device(device / "ledgers", 2, Budget(level, 8.0, 1e-5), identities=device / "identities")
    opened(device, "client" if level == "example" else "example").close()


def test_a_well_chained_ledger_of_smaller_charges_is_refused(device: Path) -> None:
    cheap = DpSettings(8.0, 1e-5, 1.0, 200.0, 0.25, 4, 32.0).event("digits/round")
    ledger_of(device).unlink()
    with FileLedger(ledger_of(device), epsilon=8.0, delta=1e-5) as forged:
        for _ in range(9):
            forged.charge(cheap)
    with pytest.raises(LedgerError, match="rolled back or replaced"):
        opened(device)


def test_one_level_cannot_stand_in_for_the_other(device: Path) -> None:
    shutil.copy(ledger_of(device, "client"), ledger_of(device))
    with pytest.raises(LedgerError, match="rolled back or replaced"):
        opened(device)


def test_an_anchor_that_was_taken_away_is_missed_and_not_made_anew(device: Path) -> None:
    anchor_of(device).unlink()
    with pytest.raises(LedgerError, match=r"cannot be read: No such file .* Put it back; if it is lost"):
        opened(device)
    create_identities(device / "identities", 2)  # whoever starts the run again
    assert not anchor_of(device).exists()
    with pytest.raises(LedgerError, match="cannot be read"):
        opened(device)


def test_an_anchor_that_is_taken_away_under_an_open_ledger_stops_the_step(device: Path) -> None:
    with opened(device) as ledger:
        anchor_of(device).unlink()
        with pytest.raises(LedgerError, match="cannot be read"):
            ledger.charge(ROUND)
        with pytest.raises(LedgerError, match="open it again"):
            ledger.charge(ROUND)


def test_an_older_anchor_alone_forgets_nothing_that_the_ledger_knows(device: Path) -> None:
    """It is brought up to date: the ledger is what is counted."""
    older = anchor_of(device).read_bytes()
    with opened(device) as ledger:
        ledger.charge(ROUND)
    anchor_of(device).write_bytes(older)
    with opened(device) as ledger:
        assert len(ledger.charges) == 4
    assert anchor_of(device).read_bytes() != older


def test_another_devices_anchor_does_not_fit(device: Path) -> None:
    with opened(device, number=1) as other:
        other.charge(DpSettings(8.0, 1e-5, 1.0, 3.0, 0.25, 4, 32.0).event("digits/round"))
    shutil.copy(anchor_path(device / "identities", "device-1"), anchor_of(device))
    with pytest.raises(LedgerError, match="rolled back or replaced"):
        opened(device)


def test_a_second_ledger_under_the_same_identity_is_refused(device: Path) -> None:
    """A fresh folder of ledgers would be a fresh budget."""
    (device / "elsewhere").mkdir()
    with pytest.raises(LedgerError, match="is missing"):
        open_ledger(device / "elsewhere", 0, level="example", epsilon=8.0, delta=1e-5, identities=device / "identities")


def test_a_rollback_under_an_open_ledger_is_found_at_the_next_charge(device: Path) -> None:
    with opened(device) as first:
        first.charge(ROUND)
        ledger_of(device).write_bytes(b"".join(ledger_of(device).read_bytes().splitlines(keepends=True)[:2]))
        with pytest.raises(LedgerError, match="was changed by someone else"):
            first.charge(ROUND)


def test_known_limit_both_put_back_together_do_not_show(device: Path) -> None:
    """A snapshot of the disk, or whoever is root on the device: only a counter that is not there could tell."""
    ledger, anchor = ledger_of(device).read_bytes(), anchor_of(device).read_bytes()
    with opened(device) as open_:
        open_.charge(ROUND)
    ledger_of(device).write_bytes(ledger)
    anchor_of(device).write_bytes(anchor)
    with opened(device) as open_:
        assert len(open_.charges) == 3


def test_known_limit_a_new_identity_has_a_new_anchor(device: Path) -> None:
    """Whoever may enrol the device anew may also let it begin anew."""
    shutil.rmtree(device / "identities")
    ledger_of(device).unlink()
    create_identities(device / "identities", 2)
    with opened(device) as ledger:
        assert ledger.charges == ()


def test_spending_is_read_from_whole_ledgers_only(device: Path) -> None:
    ledgers, identities = device / "ledgers", device / "identities"
    whole = spent_by_device(ledgers, 2, BUDGET, identities=identities)
    assert list(whole) == [0]
    assert spent_by_device(ledgers, 2, Budget("client", 8.0, 1e-5), identities=identities) == whole
    path = ledger_of(device)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert spent_by_device(ledgers, 2, BUDGET)[0] < whole[0]
    with pytest.raises(LedgerError, match="rolled back"):
        spent_by_device(ledgers, 2, BUDGET, identities=identities)
