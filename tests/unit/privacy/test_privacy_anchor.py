"""The anchor: created once, read and written under a lock, never back."""

import os
import stat
import threading
from pathlib import Path

import pytest

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy import Anchor, DpSettings, FileLedger, Head

ROUND = DpSettings(8.0, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")
FIRST, SECOND = Head(1, 64 * "a"), Head(2, 64 * "b")


@pytest.fixture
def anchor(tmp_path: Path) -> Anchor:
    return Anchor.create(tmp_path / "device-0.anchor")


def opened(path: Path, anchor: Anchor, **changes: object) -> FileLedger:
    return FileLedger(path, **{"epsilon": 8.0, "delta": 1e-5, "anchor": anchor, **changes})


def test_a_new_anchor_knows_nothing_and_is_its_owners_alone(anchor: Anchor) -> None:
    assert anchor.heads() == {}
    assert stat.S_IMODE(anchor.path.stat().st_mode) == 0o600
    assert repr(anchor) == f"Anchor({str(anchor.path)!r})"


def test_the_bytes_of_an_anchor_are_pinned(anchor: Anchor) -> None:
    anchor.advance("example", FIRST)
    anchor.advance("client", SECOND)
    a, b = 64 * b"a", 64 * b"b"
    assert anchor.path.read_bytes() == (
        b'08a49056880a0269e2a346e48c745f1020ee3cf137a4fa45865781a9629c4bc8 {"format":"fedmesh-anchor/1","ledgers":'
        b'{"client":{"digest":"%b","entries":2},"example":{"digest":"%b","entries":1}}}\n' % (b, a)
    )


def test_creating_it_again_keeps_what_it_knows(anchor: Anchor) -> None:
    anchor.advance("example", FIRST)
    assert Anchor.create(anchor.path).heads() == {"example": FIRST}


def test_it_never_goes_back(anchor: Anchor) -> None:
    anchor.advance("example", SECOND)
    anchor.advance("example", SECOND)
    for head in (FIRST, Head(2, 64 * "c")):
        with pytest.raises(LedgerError, match="two ledgers of one level"):
            anchor.advance("example", head)
    anchor.advance("client", FIRST)
    assert anchor.heads() == {"example": SECOND, "client": FIRST}


def test_it_is_where_the_ledger_is_after_every_entry(tmp_path: Path, anchor: Anchor) -> None:
    with opened(tmp_path / "device-0.ledger", anchor) as ledger:
        assert anchor.heads() == {"example": ledger.head}
        ledger.charge(ROUND)
        assert anchor.heads() == {"example": ledger.head}
        task = ledger.for_task("digits", epsilon=8.0, delta=1e-5)
        task.charge(ROUND)
        ledger.settle(1, ROUND)
        assert anchor.heads() == {"example": ledger.head}
    assert ledger.head.entries == 5


def test_the_two_levels_have_a_head_each(tmp_path: Path, anchor: Anchor) -> None:
    with (
        opened(tmp_path / "device-0.ledger", anchor) as examples,
        opened(tmp_path / "device-0.client.ledger", anchor, level="client") as clients,
    ):
        examples.charge(ROUND)
        clients.charge(ROUND)
        clients.charge(ROUND)
        assert anchor.heads() == {"example": examples.head, "client": clients.head}


def test_a_ledger_that_is_ahead_brings_it_up_to_date(tmp_path: Path, anchor: Anchor) -> None:
    path = tmp_path / "device-0.ledger"
    opened(path, anchor).close()
    with FileLedger(path, epsilon=8.0, delta=1e-5) as unanchored:
        unanchored.charge(ROUND)
        unanchored.charge(ROUND)
    with opened(path, anchor) as ledger:
        assert anchor.heads() == {"example": ledger.head}
        assert ledger.head.entries == 3


def test_a_ledger_from_before_its_anchor_is_taken_on(tmp_path: Path, anchor: Anchor) -> None:
    with FileLedger(tmp_path / "device-0.ledger", epsilon=8.0, delta=1e-5) as unanchored:
        unanchored.charge(ROUND)
    with opened(tmp_path / "device-0.ledger", anchor) as ledger:
        assert anchor.heads() == {"example": ledger.head}


def test_opening_without_news_writes_nothing(tmp_path: Path, anchor: Anchor, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path / "device-0.ledger", anchor).close()
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("a sync"))
    opened(tmp_path / "device-0.ledger", anchor).close()


def test_a_charge_costs_three_syncs_and_the_ledger_comes_first(
    tmp_path: Path, anchor: Anchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append("folder" if path.is_dir() else path.name.strip(".").rpartition(".")[0])

    with opened(tmp_path / "device-0.ledger", anchor) as ledger:
        monkeypatch.setattr(os, "fsync", record)
        monkeypatch.setattr("fedmesh.privacy.durable._FULL_SYNC", None)
        ledger.charge(ROUND)
    assert synced == ["device-0", "device-0.anchor", "folder"]


def test_an_anchor_that_cannot_be_written_stops_the_step_though_it_was_charged(
    tmp_path: Path, anchor: Anchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "device-0.ledger"
    with opened(path, anchor) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr("fedmesh.privacy.anchor.write_atomically", _full)
            with pytest.raises(LedgerError, match="anchor of the privacy ledger cannot be written: no room"):
                ledger.charge(ROUND, release_id="r")
        with pytest.raises(LedgerError, match="open it again"):
            ledger.charge(ROUND)
    with opened(path, anchor) as ledger:
        assert len(ledger.charges) == 1
        assert anchor.heads() == {"example": ledger.head}


def _full(*_: object, **__: object) -> None:
    raise ConfigError("no room")


@pytest.mark.parametrize(
    "data", [b"", b"{}\n", b"\xff" * 50, b"x" * 5000, 64 * b"0" + b" {}\n", b"[" * 3000, 64 * b"0" + b" " + b"[" * 3000]
)
def test_a_damaged_anchor_is_refused(tmp_path: Path, anchor: Anchor, data: bytes) -> None:
    anchor.path.write_bytes(data)
    for use in (anchor.heads, lambda: anchor.advance("example", FIRST), lambda: Anchor.create(anchor.path)):
        with pytest.raises(LedgerError, match="is damaged: put back a copy"):
            use()
    with pytest.raises(LedgerError, match="damaged"):
        opened(tmp_path / "device-0.ledger", anchor)
    assert anchor.path.read_bytes() == data


def test_every_changed_byte_of_an_anchor_is_found(anchor: Anchor) -> None:
    anchor.advance("example", FIRST)
    whole = anchor.path.read_bytes()
    for index in range(len(whole) - 1):
        anchor.path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(LedgerError):
            anchor.heads()


def test_what_others_may_write_is_no_anchor(anchor: Anchor) -> None:
    anchor.path.chmod(0o620)
    with pytest.raises(LedgerError, match="chmod 600"):
        anchor.heads()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_not_a_regular_file_is_no_anchor(tmp_path: Path, anchor: Anchor, kind: str) -> None:
    place = tmp_path / "other"
    {
        "link": lambda: place.symlink_to(anchor.path),
        "folder": lambda: place.mkdir(0o700),
        "pipe": lambda: os.mkfifo(place, 0o600),
    }[kind]()
    with pytest.raises(LedgerError, match=r"cannot be read|no regular file"):
        Anchor(place).heads()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        Anchor.create(tmp_path / "missing" / "device-0.anchor")


def test_many_at_once_lose_nothing(anchor: Anchor) -> None:
    """Each writer replaces the file: whoever waited for the old one must look at the new one."""

    def write(level: str) -> None:
        for number in range(1, 40):
            anchor.advance(level, Head(number, 64 * "d"))  # type: ignore[arg-type]

    threads = [threading.Thread(target=write, args=(level,)) for level in ("example", "client")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert anchor.heads() == {"example": Head(39, 64 * "d"), "client": Head(39, 64 * "d")}
