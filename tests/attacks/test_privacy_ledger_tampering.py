"""Somebody edits a device's ledger: what is found, and what only a head kept elsewhere can show."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmesh.errors import ConfigError, FedMeshError, LedgerError
from fedmesh.privacy import DpSettings, FileLedger, Head
from fedmesh.privacy.chain import parse

ROUND = DpSettings(8.0, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")


def opened(path: Path, known: Head | None = None) -> FileLedger:
    return FileLedger(path, epsilon=8.0, delta=1e-5, known=known)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ledger") / "device.ledger"
    with opened(path) as ledger:
        for _ in range(3):
            ledger.charge(ROUND)
    return path.read_bytes()


def test_every_changed_byte_is_found(whole: bytes) -> None:
    """Any byte but the last newline (which, gone, looks like an interrupted write of the last entry)."""
    for index in range(len(whole) - 1):
        for value in (whole[index] ^ 1, 0x0A, 0x20):
            if value == whole[index]:
                continue
            changed = whole[:index] + bytes([value]) + whole[index + 1 :]
            with pytest.raises(LedgerError):
                parse(changed)


def test_zeros_are_an_interrupted_write_only_at_the_end(whole: bytes) -> None:
    last = whole.rindex(b"\n", 0, -1) + 1
    for index in range(len(whole)):
        changed = whole[:index] + b"\0" + whole[index + 1 :]
        if index < last:
            with pytest.raises(LedgerError):
                parse(changed)
        else:
            assert len(parse(changed).charges) == 2


@pytest.mark.parametrize("tail", [b"x" * 5000, bytes(5000), b"x" * 5000 + b"\0\n"])
def test_more_than_one_entry_at_the_end_is_no_interrupted_write(whole: bytes, tail: bytes) -> None:
    with pytest.raises(LedgerError, match="entry 4 is neither whole nor"):
        parse(whole + tail)


def test_an_entry_taken_out_doubled_or_moved_is_found(whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    for order in ([0, 2, 3], [1, 2, 3], [0, 1, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3, 3], [0, 0, 1, 2, 3], [3], [0, 3]):
        with pytest.raises(LedgerError):
            parse(b"".join(lines[i] for i in order))


def test_an_entry_with_a_hash_of_its_own_breaks_those_after_it(whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    body = lines[1].split(b" ", 1)[1].rstrip(b"\n").replace(b'"count":4', b'"count":1')
    digest = hashlib.sha256(bytes.fromhex(lines[0][:64].decode()) + body).hexdigest().encode()
    with pytest.raises(LedgerError, match="entry 2 does not follow"):
        parse(lines[0] + digest + b" " + body + b"\n" + lines[2] + lines[3])


def test_a_damaged_ledger_is_not_opened_and_not_touched(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "device.ledger"
    damaged = whole.replace(b'"count":4', b'"count":1', 1)
    path.write_bytes(damaged)
    with pytest.raises(LedgerError, match=r"entry 1 .* must not train"):
        opened(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b"{}\n", b"\xff" * 100, b"\0" * 5000, b"\n", b" \n"])
def test_a_file_that_is_no_ledger_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "device.ledger"
    path.write_bytes(content)
    with pytest.raises(LedgerError):
        opened(path)
    assert path.read_bytes() == content


def chained(*bodies: bytes) -> bytes:
    """A well chained ledger with any contents, as someone who knows the format can write it."""
    out, previous = b"", bytes(32)
    for body in bodies:
        digest = hashlib.sha256(previous + body)
        out += digest.hexdigest().encode() + b" " + body + b"\n"
        previous = digest.digest()
    return out


OPENING = b'{"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/1"}'
CHARGE = (
    b'{"count":4,"entry":1,"label":"","mechanism":"sampled_gaussian",'
    b'"parameters":{"noise_multiplier":2.0},"release":null}'
)
OPENING_2 = b'{"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/2","level":"client"}'
TASK = b'{"delta":1e-05,"entry":1,"epsilon":1.5,"task":"a"}'
SETTLED = b'{"count":4,"entry":2,"mechanism":"sampled_gaussian","parameters":{"noise_multiplier":3.0},"settles":1}'


@pytest.mark.parametrize(
    "bodies",
    [
        [b"[]"],
        [b"{"],
        [b"null"],
        [b"\xff"],
        [b'{"entry":0}'],
        [OPENING.replace(b"/1", b"/2")],
        [OPENING.replace(b"/1", b"/3")],
        [OPENING.replace(b"8.0", b"1" + 400 * b"0")],
        [OPENING_2.replace(b"client", b"example and client")],
        [OPENING_2.replace(b"client", b"Client")],
        [OPENING_2.replace(b"/2", b"/1")],
        [OPENING, CHARGE.replace(b'"count":4', b'"count":1' + 400 * b"0")],
        [OPENING, TASK],
        [OPENING_2, TASK.replace(b'"a"', b'""')],
        [OPENING_2, TASK.replace(b'"a"', b'"a/b"')],
        [OPENING_2, TASK.replace(b"1.5", b"-1.5")],
        [OPENING_2, TASK.replace(b"1.5", b"true")],
        [OPENING_2, SETTLED],
        [OPENING_2, CHARGE, SETTLED.replace(b'"settles":1', b'"settles":0')],
        [OPENING_2, CHARGE, SETTLED.replace(b'"settles":1', b'"settles":2')],
        [OPENING_2, CHARGE, SETTLED.replace(b'"settles":1', b'"settles":true')],
        [OPENING_2, CHARGE, SETTLED.replace(b'"settles":1', b'"settles":1,"x":1')],
        [OPENING, CHARGE, SETTLED],
        [OPENING.replace(b"8.0", b'"8"')],
        [OPENING.replace(b"8.0", b"true")],
        [OPENING.replace(b'"entry"', b'"more":1,"entry"')],
        [OPENING, CHARGE.replace(b'"count":4', b'"count":-4')],
        [OPENING, CHARGE.replace(b'"count":4', b'"count":0')],
        [OPENING, CHARGE.replace(b'"count":4', b'"count":4.5')],
        [OPENING, CHARGE.replace(b'"count":4', b'"count":true')],
        [OPENING, CHARGE.replace(b'"entry":1', b'"entry":2')],
        [OPENING, CHARGE.replace(b"2.0", b'"2.0"')],
        [OPENING, CHARGE.replace(b"2.0", b"NaN")],
        [OPENING, CHARGE.replace(b"null", b"7")],
        [OPENING, CHARGE.replace(b'"label"', b'"extra":1,"label"')],
        [OPENING, b"[" * 3000],
    ],
)
def test_a_well_chained_ledger_of_nonsense_is_refused(bodies: list[bytes]) -> None:
    with pytest.raises(LedgerError):
        parse(chained(*bodies))


@pytest.mark.parametrize(
    "bodies",
    [
        [CHARGE, SETTLED.replace(b"3.0", b"1.9")],
        [CHARGE, SETTLED.replace(b'"count":4', b'"count":3')],
        [CHARGE, SETTLED.replace(b"sampled_gaussian", b"gaussian")],
        [CHARGE, SETTLED.replace(b"noise_multiplier", b"variance")],
        [CHARGE, SETTLED, SETTLED.replace(b'"entry":2', b'"entry":3').replace(b"3.0", b"4.0")],
        [CHARGE, SETTLED, SETTLED.replace(b'"entry":2', b'"entry":3').replace(b'"settles":1', b'"settles":2')],
        [TASK, TASK.replace(b'"entry":1', b'"entry":2')],
        [CHARGE, SETTLED, *(SETTLED.replace(b'"entry":2', b'"entry":%d' % n).replace(b"3.0", b"2.0") for n in (3, 4))],
    ],
)
def test_a_well_chained_ledger_whose_entries_contradict_each_other_is_refused(
    tmp_path: Path, bodies: list[bytes]
) -> None:
    path = tmp_path / "device.ledger"
    path.write_bytes(chained(OPENING_2, *bodies))
    with pytest.raises(LedgerError, match="damaged"):
        FileLedger(path, epsilon=8.0, delta=1e-5, level="client")


def test_a_charge_of_unknown_mechanism_cannot_be_added_up(tmp_path: Path) -> None:
    """The entry is well formed, perhaps of a later version: not counting it would be wrong."""
    path = tmp_path / "device.ledger"
    path.write_bytes(chained(OPENING, CHARGE))
    with opened(path) as ledger:
        with pytest.raises(ConfigError, match="cannot be accounted for"):
            ledger.charge(ROUND)
        with pytest.raises(ConfigError, match="cannot be accounted for"):
            ledger.epsilon(1e-5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 600))
def test_nothing_but_ledger_errors_comes_of_hostile_bytes(whole: bytes, data: bytes, at: int) -> None:
    for content in (data, data + b"\n", whole[:at] + data, whole[:at] + data + b"\n" + whole[at:]):
        try:
            parse(content)
        except FedMeshError as error:
            assert isinstance(error, LedgerError)  # noqa: PT017  # it may also parse: a torn tail


def test_a_rollback_shows_against_a_head_kept_elsewhere(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "device.ledger"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole)
    with opened(path) as ledger:
        known = ledger.head
    assert known == Head(4, lines[3][:64].decode())
    opened(path, known).close()
    for older in (b"".join(lines[:3]), lines[0], b"", whole[:-1]):
        path.write_bytes(older)
        with pytest.raises(LedgerError, match=r"rolled back or replaced: 4 entries"):
            opened(path, known)
        assert path.read_bytes() == older


def test_a_replaced_ledger_shows_against_a_head_kept_elsewhere(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "device.ledger"
    path.write_bytes(whole)
    with opened(path) as ledger:
        known = ledger.head
    path.unlink()
    with opened(path) as ledger:
        for _ in range(5):
            ledger.charge(ROUND, release_id=None if ledger.charges else "other")
    with pytest.raises(LedgerError, match="replaced"):
        opened(path, known)


def test_known_limit_whole_lines_cut_off_do_not_show_in_the_file_alone(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "device.ledger"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    with opened(path) as ledger:
        assert len(ledger.charges) == 1


def test_a_ledger_changed_under_an_open_one_is_found_at_the_next_charge(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "device.ledger"

    def truncate() -> None:
        os.truncate(path, 200)

    def append() -> None:
        with path.open("ab") as file:
            file.write(b"x")

    def replace() -> None:
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
        copy.replace(path)

    for disturb in (truncate, append, replace, path.unlink):
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        with opened(path) as ledger:
            disturb()
            with pytest.raises(LedgerError, match=r"must not be taken"):
                ledger.charge(ROUND)
            with pytest.raises(LedgerError, match="open it again"):
                ledger.charge(ROUND)
