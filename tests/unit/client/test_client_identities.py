"""The folder of identities: made once, kept, and refused when it is not sound."""

import stat
from pathlib import Path

import pytest

from fedmesh.client.identities import (
    AGGREGATOR,
    anchor_path,
    create_identities,
    device_name,
    open_identity,
    open_roster,
    store_path,
)
from fedmesh.errors import ConfigError
from fedmesh.privacy import Anchor, Head


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everybody_gets_an_identity_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "identities"
    roster = create_identities(folder, 3)
    assert roster.names == (AGGREGATOR, "device-0", "device-1", "device-2")
    assert open_roster(folder) == roster
    for name in roster.names:
        assert open_identity(folder, name).public == roster.key(name)
        assert mode(folder / f"{name}.key") == 0o600
        assert len((folder / f"{name}.key").read_bytes()) == 32
    assert mode(folder) == 0o700


def test_a_device_gets_an_anchor_with_its_key_and_never_again(tmp_path: Path) -> None:
    create_identities(tmp_path, 2)
    for name in ("device-0", "device-1"):
        assert Anchor(anchor_path(tmp_path, name)).heads() == {}
        assert mode(tmp_path / f"{name}.anchor") == 0o600
    assert not anchor_path(tmp_path, AGGREGATOR).exists()
    anchor_path(tmp_path, "device-1").unlink()
    create_identities(tmp_path, 3)
    assert not anchor_path(tmp_path, "device-1").exists()
    assert anchor_path(tmp_path, "device-2").exists()


def test_an_anchor_outlives_a_key_that_is_made_anew(tmp_path: Path) -> None:
    create_identities(tmp_path, 1)
    head = Head(3, 64 * "a")
    Anchor(anchor_path(tmp_path, "device-0")).advance("example", head)
    (tmp_path / "device-0.key").unlink()
    (tmp_path / "roster.cbor").unlink()
    create_identities(tmp_path, 1)
    assert Anchor(anchor_path(tmp_path, "device-0")).heads() == {"example": head}


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    first = create_identities(tmp_path, 2)
    assert create_identities(tmp_path, 2) == first
    more = create_identities(tmp_path, 4)
    assert all(more.key(name) == first.key(name) for name in first.names)
    assert create_identities(tmp_path, 1) == more


def test_keys_that_a_crash_left_without_a_roster_are_taken_up(tmp_path: Path) -> None:
    first = create_identities(tmp_path, 2)
    (tmp_path / "roster.cbor").unlink()
    assert create_identities(tmp_path, 2) == first


def test_a_lost_key_is_not_replaced_behind_the_rosters_back(tmp_path: Path) -> None:
    create_identities(tmp_path, 2)
    (tmp_path / "device-1.key").unlink()
    with pytest.raises(ConfigError, match=r"names device-1, but device-1\.key is not there: put back the folder"):
        create_identities(tmp_path, 2)


def test_an_exchanged_key_is_noticed(tmp_path: Path) -> None:
    create_identities(tmp_path, 2)
    (tmp_path / "device-1.key").write_bytes((tmp_path / "device-0.key").read_bytes())
    with pytest.raises(ConfigError, match="disagree"):
        create_identities(tmp_path, 2)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33)])
def test_a_damaged_key_is_refused(tmp_path: Path, data: bytes) -> None:
    create_identities(tmp_path, 1)
    (tmp_path / "device-0.key").write_bytes(data)
    with pytest.raises(ConfigError, match="not an identity"):
        open_identity(tmp_path, "device-0")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_identities(tmp_path, 1)
    (tmp_path / "device-0.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_identity(tmp_path, "device-0")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the identity"):
        open_identity(tmp_path, "device-0")
    with pytest.raises(ConfigError, match="cannot read the roster"):
        open_roster(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        create_identities(tmp_path / "file", 1)


@pytest.mark.parametrize("data", [b"", b"roster", b"\xa1\x61a\x41b"])
def test_a_damaged_roster_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "roster.cbor").write_bytes(data)
    with pytest.raises(ConfigError, match="damaged"):
        open_roster(tmp_path)


def test_names_and_places(tmp_path: Path) -> None:
    assert device_name(7) == "device-7"
    assert store_path(tmp_path, "device-7") == tmp_path / "device-7.sqlite"
    with pytest.raises(ConfigError, match="count from 0"):
        device_name(-1)
