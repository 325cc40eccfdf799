"""Every journal of rounds there is, behind one face: opened again and again, looked at and altered behind its back."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from fedmesh.coordinator import Journal, RoundJournal, RoundRecord, RunStore

KINDS = ("file", "sqlite", "postgresql")


@dataclass(frozen=True)
class Place:
    """Where one run is kept.

    Attributes:
        kind: one of `KINDS`. where: path of the file, or URL of the store.
        tables: names of the tables for rounds, model and nodes' states.
    """

    kind: str
    where: str
    tables: tuple[str, str, str]

    def open(self) -> RoundJournal:
        return opened(self.where)

    def alter(self, statement: str) -> None:
        """Runs SQL behind the journal's back; {round}, {model} and {node} are its tables."""
        names = dict(zip(("round", "model", "node"), self.tables, strict=True))
        execute(self.where, statement.format(**names))


def execute(where: str, statement: str) -> list[Any]:
    """Runs SQL past fedmesh: on a journal's file, on an SQLite URL, or on PostgreSQL."""
    if where.startswith("postgresql"):
        import psycopg

        with psycopg.connect(where, autocommit=True) as raw:
            found = raw.execute(statement)
            return found.fetchall() if found.description else []
    with closing(sqlite3.connect(where.removeprefix("sqlite:///"))) as raw, raw:
        return raw.execute(statement).fetchall()


def opened(where: str) -> RoundJournal:
    """The journal at a path, or of the one run in the store at a URL, begun if it is not there."""
    if "://" not in where:
        return Journal(Path(where))
    store = RunStore(where, patience_s=20.0)
    runs = store.runs()
    return store.journal(runs[0].id if runs else store.create("run", {}, 20))


def place(kind: str, folder: Path, postgres: Callable[[], str]) -> Place:
    """A new place of `kind`; `postgres` gives the URL of an empty database."""
    tables = ("fedmesh_round", "fedmesh_model", "fedmesh_node")
    if kind == "file":
        return Place(kind, str(folder / "journal"), ("round", "model", "node"))
    return Place(kind, f"sqlite:///{folder / 'runs.sqlite3'}" if kind == "sqlite" else postgres(), tables)


def arrays(value: float = 0.0) -> ArrayRecord:
    return ArrayRecord([np.full(1000, value, np.float32), np.arange(6, dtype=np.int8).reshape(2, 3)])


def fill(journal: RoundJournal, rounds: int = 3) -> RoundJournal:
    for number in range(rounds):
        states = {2: b"two", 3: f"three {number}".encode()}
        journal.commit(RoundRecord(number, clients=number), arrays(number), strategy=b"s%d" % number, states=states)
    return journal
