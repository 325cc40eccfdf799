"""Sessions in a Context: kept, found again, gone without a trace; and what else the record could hold is refused."""

import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.flower.sessions import STATE, Kept, keep, kept_in


def context(record: ConfigRecord | None = None) -> Context:
    state = RecordDict() if record is None else RecordDict({STATE: record})
    return Context(1, 2, {}, state, {})


def test_what_is_kept_is_found() -> None:
    where = context()
    sessions = {3: Kept(b"header", b"sealed"), 4: Kept(b"next", b"too")}
    keep(where, sessions)
    assert kept_in(where) == sessions
    assert list(where.state) == [STATE]


def test_without_sessions_nothing_stays() -> None:
    where = context()
    keep(where, {3: Kept(b"header", b"sealed")})
    keep(where, {})
    assert not where.state
    assert kept_in(where) == {}


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"sessions": "text"},
        {"sessions": b""},
        {"sessions": b"\xff"},
        {"sessions": wire.dumps({"a": 1})},
        {"sessions": wire.dumps([1])},
        {"sessions": wire.dumps([[1, b"header"]])},
        {"sessions": wire.dumps([["1", b"header", b"sealed"]])},
        {"sessions": wire.dumps([[1, b"header", "sealed"]])},
    ],
)
def test_a_damaged_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        kept_in(context(ConfigRecord(record)))
