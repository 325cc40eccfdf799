"""The tables of the store of runs, for SQLite and PostgreSQL. SQLAlchemy Core, no objects.

Names begin with ``fedmesh_``: a PostgreSQL database may hold other things. Ids of nodes are text, as neither database
has unsigned 64-bit integers. Times are Unix seconds.
"""

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, LargeBinary, MetaData, Table, Text

__all__ = ["SCHEMA", "attempt", "metadata", "model", "node", "row", "run", "schema", "wish"]

SCHEMA = 1
"""Version of the tables. A later version adds its migrations from each earlier one."""

metadata = MetaData()


def _of_run() -> Column[int]:
    return Column("run", BigInteger, ForeignKey("fedmesh_run.id"), primary_key=True, autoincrement=False)


schema = Table("fedmesh_schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

run = Table(
    "fedmesh_run",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("scenario", Text, nullable=False),  # JSON
    Column("rounds", Integer, nullable=False),  # planned
    Column("facts", Text, nullable=False),  # JSON
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("host", Text, nullable=False),
    Column("lease", BigInteger, nullable=False),  # counts the coordinators that have had it
)

wish = Table("fedmesh_wish", metadata, _of_run(), Column("wish", Text, nullable=False))
"""Apart from `run`, which the coordinator writes: an operator never waits for a commit, nor it for the operator."""

row = Table(
    "fedmesh_round",
    metadata,
    _of_run(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("record", Text, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)

model = Table(
    "fedmesh_model",
    metadata,
    _of_run(),
    Column("arrays", LargeBinary, nullable=False),
    Column("strategy", LargeBinary, nullable=False),
)
"""Of the last round only."""

node = Table(
    "fedmesh_node",
    metadata,
    _of_run(),
    Column("id", Text, primary_key=True),
    Column("state", LargeBinary, nullable=False),
)

attempt = Table(
    "fedmesh_attempt",
    metadata,
    _of_run(),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
)
