"""The database of the store of runs: an SQLite file or a PostgreSQL server, opened so that a commit is durable.

SQLite: a write-ahead log with ``synchronous=EXTRA`` (each commit is synced before it returns), writers one after
another (``BEGIN IMMEDIATE``), readers at any time on the snapshot that they began with. The file is its owner's alone
and lies on a local disk: the log does not work over a network file system.
PostgreSQL: ``synchronous_commit = on``, writers READ COMMITTED with the run's row locked, readers REPEATABLE READ.

No error, log or repr holds the URL's password.
"""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fedmesh.coordinator import runtables
from fedmesh.coordinator.runurl import parsed_url
from fedmesh.errors import ConfigError

__all__ = ["Database", "UnreachableError"]

_SCHEMA_LOCK = 0x6665_646D_6573_6801
"""Advisory lock of PostgreSQL under which the tables are made; run ids are below it."""
_BUSY_S = 30.0


class UnreachableError(ConfigError):
    """The server is not there just now: the same call may succeed in a moment."""


class Database:
    """Engine, transactions, and SQLAlchemy's errors said to the operator. Threads may share it.

    Args:
        url: ``sqlite:///file`` or ``postgresql://user@host/database``.
        create: whether a missing file and missing tables are made.

    Raises:
        ConfigError: the URL is none of these, the database cannot be used, is not fedmesh's or of a newer version.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = parsed_url(url)
        self.name = self._url.render_as_string(hide_password=True)
        """The URL without its password."""
        self.path: Path | None = None
        """The file of SQLite."""
        if self._url.get_backend_name() == "sqlite":
            self.path = Path(self._url.database or "").absolute()
            self._prepare_file(self.path, create=create)
        self.engine = self._engine()
        weakref.finalize(self, self.engine.dispose)
        try:
            self._open(create=create)
        except BaseException:
            self.engine.dispose()
            raise

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment. Raises: ConfigError, UnreachableError."""
        with self.explained("read"), self.engine.connect() as connection:
            if self.path is None:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is durable when the block has ended, or undone. Raises: ConfigError, UnreachableError."""
        with self.explained("written"), self.engine.connect() as connection:
            connection.execution_options(fedmesh_writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """SQLAlchemy's errors, as the operator's."""
        try:
            yield
        except DBAPIError as error:
            said = self._discreet(" ".join(str(error.orig).split()))
            kind = UnreachableError if self.path is None and _passing(error) else ConfigError
            raise kind(f"{self.name} cannot be {done}: {said}. {_advice(said)}") from error
        except SQLAlchemyError as error:
            raise ConfigError(f"{self.name} cannot be {done}: {self._discreet(str(error))}") from error

    def close(self) -> None:
        """Closes the connections that are not in use; idempotent."""
        self.engine.dispose()

    def _engine(self) -> Engine:
        if self.path is None:
            options = {"application_name": "fedmesh", "connect_timeout": 10, "keepalives_idle": 10}
            options |= {"keepalives_interval": 5, "keepalives_count": 3}
            url = self._url.set(drivername="postgresql+psycopg")
            engine = self._made(
                url, pool_size=1, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=options
            )
            event.listen(engine, "connect", _durable_postgresql)
            return engine
        engine = self._made(self._url.set(drivername="sqlite+pysqlite"), connect_args={"timeout": _BUSY_S})
        event.listen(engine, "connect", _durable_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _made(self, url: URL, **options: Any) -> Engine:
        try:
            return create_engine(url, hide_parameters=True, **options)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{self.name} wants the package {error.name}: pip install 'fedmesh[postgresql]'"
            ) from error
        except (SQLAlchemyError, TypeError) as error:
            raise ConfigError(f"{self.name} cannot be used: {self._discreet(str(error))}") from error

    def _prepare_file(self, path: Path, *, create: bool) -> None:
        if not path.exists() and not create:
            raise ConfigError(
                f"there is no journal of runs at {path}: name the one of your coordinator by --journal URL or --config "
                "FILE"
            )
        try:  # a journal names devices: its owner alone may read it, SQLite's log and index get the file's mode
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(
                f"{self.name} cannot be opened: {path}: {error.strerror}; name a file in a folder that exists and "
                "that you may write to"
            ) from error

    def _open(self, *, create: bool) -> None:
        with self.writing() if create else self.reading() as connection:
            if self.path is None and create:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            tables = set(inspect(connection).get_table_names())
            if runtables.schema.name not in tables:
                if tables and self.path is not None:
                    raise ConfigError(f"{self.name} is an SQLite file, but not a journal of runs: name another file")
                if not create:
                    raise ConfigError(f"{self.name} holds no journal of runs: start a coordinator on it first")
                runtables.metadata.create_all(connection)
                connection.execute(runtables.schema.insert().values(version=runtables.SCHEMA))
            version = connection.execute(select(runtables.schema.c.version)).scalar_one_or_none()
        if version != runtables.SCHEMA:
            raise ConfigError(
                f"{self.name} is of version {version}, this fedmesh reads {runtables.SCHEMA}: use the fedmesh that it "
                "is from, or a newer one"
            )

    def _discreet(self, said: str) -> str:
        password = self._url.password
        return said.replace(str(password), "***") if password else said


def _durable_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`, not by the driver's guesses
    for pragma in ("journal_mode = WAL", "synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("fedmesh_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _durable_postgresql(connection: Any, _: object) -> None:
    # A coordinator whose machine vanished holds its lease no longer than this: 10 s + 3 x 5 s.
    settings = {"synchronous_commit": "on", "lock_timeout": "30s", "tcp_keepalives_idle": "10"}
    settings |= {"tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute(f"SET SESSION {name} = '{value}'")
    connection.commit()


def _passing(error: DBAPIError) -> bool:
    """Whether the server is away, or just went: PostgreSQL's classes 08 and 57P, or no answer at all."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    gone = type(error.orig).__name__ == "OperationalError" and not state
    return error.connection_invalidated or gone or state.startswith(("08", "57P"))


_ADVICE = {
    ("password", "authentication"): "Check the user in [journal] url; a password is best kept in ~/.pgpass",
    ("connection failed", "server closed"): "See that the server runs, and that [journal] url names it",
    ("locked",): "Another program holds the file for long: close it",
    ("full", "No space"): "Make room on the disk and start again: what was committed is safe",
    ("readonly", "unable to open", "permission"): "Name a journal that you may write to",
    ("not a database", "malformed"): "The file is damaged or another program's: put back a copy, or name another",
}


def _advice(said: str) -> str:
    found = (advice for words, advice in _ADVICE.items() if any(word in said for word in words))
    return next(found, "What was committed is safe")
