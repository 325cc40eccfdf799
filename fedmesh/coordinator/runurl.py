"""Where runs are kept: the URL of an SQLite file or of a PostgreSQL database. A password in it is in no message."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from fedmesh.errors import ConfigError

__all__ = ["DEFAULT_URL", "journal_url", "parsed_url"]

DEFAULT_URL = "sqlite:///fedmesh-runs.sqlite3"
"""Where a coordinator keeps its runs, and `fedmesh runs` looks, unless told otherwise; see `journal_url`."""


def journal_url(url: str | None, folder: Path = Path()) -> str:
    """`url`, or the default; an SQLite file that is relative is put into `folder`, that of the configuration it is in.

    Raises:
        ConfigError: it is no URL of a journal.
    """
    parsed = parsed_url(DEFAULT_URL if url is None else url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(database=str((folder / str(parsed.database)).absolute()))
    return parsed.render_as_string(hide_password=False)


def parsed_url(url: str) -> URL:
    """The URL of an SQLite file or a PostgreSQL database.

    Raises:
        ConfigError: it is neither; the message does not quote it.
    """
    wanted = "wanted sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigError(f"the journal's URL cannot be read: {wanted}") from None  # the cause may quote a password
    if backend == "postgres":
        parsed, backend = parsed.set(drivername="postgresql"), "postgresql"
    driver = parsed.drivername.partition("+")[2]
    if backend not in {"sqlite", "postgresql"} or driver not in {"", "psycopg", "pysqlite"}:
        raise ConfigError(f"the journal's URL begins with {parsed.drivername!r}: {wanted}")
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigError(f"the journal's URL names no file, and nothing could be resumed from memory: {wanted}")
    return parsed
