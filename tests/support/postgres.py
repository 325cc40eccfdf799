"""A real PostgreSQL server of the tests' own: loopback, password, a folder that goes with the process."""

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedmesh.testing.loopback_broker import free_port

__all__ = ["PASSWORD", "PostgresServer", "find_postgres", "shared_server"]

PASSWORD = "correct-horse"


def find_postgres() -> Path | None:
    """The folder of the server's programs, which Debian keeps out of the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("postgres")
    return None if found is None or _account() is None else Path(found).resolve().parent


def _account() -> str | None:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


@cache
def shared_server() -> "PostgresServer":
    """One for all tests of this process; where there is none they are skipped, with one loud line, or fail under CI."""
    programs = find_postgres()
    if programs is None:
        text = "NO POSTGRESQL: nothing over a real server is tested (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    server = PostgresServer(programs)
    atexit.register(server.remove)
    server.start()
    return server


class PostgresServer:
    """A server that can be stopped, killed and started again on the same data."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.port = free_port()
        self._user = _account() if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="fedmesh-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._folder, password):
                shutil.chown(path, self._user, pwd.getpwnam(self._user).pw_gid)
        self._run("initdb", "--pgdata", self._data, "--username", "mesh", "--auth", "scram-sha-256", "--no-sync",
                  "--encoding", "UTF8", "--locale", "C", "--pwfile", password)  # fmt: skip

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C"}

    def start(self) -> None:
        command = [self._programs / "postgres", "-D", self._data, "-p", self.port, "-k", self._folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd="/", **self._who())
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if self._ask("SELECT 1").returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError((self._folder / "log").read_text()[-2000:])

    def stop(self, how: int = signal.SIGINT) -> None:
        """Ends the server: SIGINT in order, SIGQUIT as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(120)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        made = self._ask(f"CREATE DATABASE {name}")
        assert made.returncode == 0, made.stderr
        return f"postgresql://mesh:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def _ask(self, statement: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "mesh", "-d", "postgres"]
        command = [str(self._programs / "psql"), *where, "-X", "-q", "-c", statement]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._who())
        assert done.returncode == 0, done.stderr

    def _who(self) -> dict[str, Any]:
        return {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}
