import os
import resource
import subprocess
import sys

import pytest

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically


def test_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old" * 1000)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_others_may_read_it_if_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_secret_is_its_owners_alone(tmp_path):
    write_atomically(tmp_path / "key", b"x", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", b"x")


def test_a_write_that_fails_halfway_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from fedmesh.files import write_atomically; from fedmesh.errors import ConfigError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomically(Path(sys.argv[1]), b'x' * 10000)\n"
        "except ConfigError as error: print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "File too large; nothing was changed" in done.stdout
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_is_read_up_to_its_bound_and_a_secret_for_its_owner_only(tmp_path):
    path = tmp_path / "key"
    write_atomically(path, b"12345678", mode=0o600)
    assert read_bounded(path, 8, secret=True) == b"12345678"
    with pytest.raises(ConfigError, match="larger than 7 bytes"):
        read_bounded(path, 7)
    path.chmod(0o604)
    assert read_bounded(path, 8) == b"12345678"
    with pytest.raises(ConfigError, match="chmod 600"):
        read_bounded(path, 8, secret=True)
    with pytest.raises(ConfigError, match=r"cannot read the key .*nowhere: No such file or directory; make it$"):
        read_bounded(tmp_path / "nowhere", 8, called="the key", advice="make it")
