"""Commands as processes, on loopback: enrol, renew, revoke, kill the authority and go on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmesh.identity import Membership

TIMEOUT_S = 240


def run(folder: Path, *arguments: str, code: int = 0, token: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fedmesh", *arguments],
        cwd=folder,
        env={**os.environ, "FEDMESH_TOKEN": token} if token else os.environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An issuer in a process of its own, and where it listens."""
    command = [sys.executable, "-m", "fedmesh", "ca", "serve", "ca", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line.split()[-1].rstrip(".")
        finally:
            process.kill()


@pytest.mark.slow
def test_a_device_enrols_renews_and_is_revoked(tmp_path: Path) -> None:
    run(tmp_path, "ca", "init", "ca", "--name", "home")
    with serving(tmp_path) as (process, address):
        token = run(tmp_path, "ca", "token", "device-1", "--address", address).strip()
        assert "is enrolled until" in run(tmp_path, "enroll", token=token)
        assert "used already" in run(tmp_path, "enroll", "--dir", "thief", token=token, code=1)
        first = Membership(tmp_path / "identity").leaf
        process.kill()
        process.wait()
        assert "cannot connect" in run(tmp_path, "enroll", "--renew", "--now", code=1)
        assert Membership(tmp_path / "identity").leaf == first
    with serving(tmp_path) as (process, address):
        run(tmp_path, "enroll", "--renew", "--now", "--server", address)
        assert Membership(tmp_path / "identity").leaf != first
        run(tmp_path, "ca", "revoke", "device-1")
        assert "is revoked" in run(tmp_path, "enroll", "--renew", "--now", code=1)
        process.send_signal(2)
        assert process.wait(TIMEOUT_S) == 130
