"""That fsync is called at the right moments, and what follows when it fails: seen through a stand-in for os.fsync."""

import errno
import os
import stat
from pathlib import Path

import pytest

from fedmesh.errors import LedgerError
from fedmesh.privacy.durable import DurableFile


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was made durable, in order: ("file", its size) or ("directory", 0)."""
    calls: list[tuple[str, int]] = []

    def record(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append(("directory", 0) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr("fedmesh.privacy.durable._FULL_SYNC", None)
    return calls


def test_a_record_is_on_the_disk_before_append_returns(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    file = DurableFile(tmp_path / "x")
    file.append(b"one")
    assert synced == [("file", 3)]
    file.append(b"three")
    assert synced == [("file", 3), ("file", 8)]
    file.sync_directory()
    file.cut(3)
    assert synced[2:] == [("directory", 0), ("file", 3)]
    assert file.read() == b"one"
    file.close()


def test_a_new_ledger_is_durable_with_its_name(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    from fedmesh.privacy import FileLedger

    path = tmp_path / "device.ledger"
    FileLedger(path, epsilon=8.0, delta=1e-5).close()
    assert synced[-2:] == [("file", path.stat().st_size), ("directory", 0)]


def test_after_a_failed_fsync_nothing_is_charged_until_the_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have dropped the data and will not say so twice (the "fsyncgate" of 2018)."""
    file = DurableFile(tmp_path / "x")
    file.append(b"one")

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        patch.setattr("fedmesh.privacy.durable._FULL_SYNC", None)
        with pytest.raises(LedgerError, match=r"could not be made durable: .*Input/output error.*must not be taken"):
            file.append(b"two")
    with pytest.raises(LedgerError, match="open it again"):
        file.append(b"three")
    again = DurableFile(tmp_path / "x")
    assert again.read() == b"onetwo"  # whatever is there counts
    again.close()


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:2], offset))
    file = DurableFile(tmp_path / "x")
    file.append(b"abcdefg")
    assert file.read() == b"abcdefg"
    file.close()
