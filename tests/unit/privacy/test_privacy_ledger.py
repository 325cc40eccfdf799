import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.privacy import DpSettings, FileLedger, epsilon, noise_multiplier, release_id
from fedmesh.privacy.chain import parse
from fedmesh.types import Ledger, PrivacyEvent

ROUND = DpSettings(8.0, 1e-5, 1.0, 2.0, 0.25, 4, 32.0).event("digits/round")

FORMAT_1 = (
    b"5c1a27fda8ec7aba2d715631acf1b36df3f0f5463b93b2b26c4cc8b65811d1f1 "
    b'{"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/1"}\n'
    b"7bf293fd655a336188a32990a21344fd6ba5a084cffc384af544ede693b8c81b "
    b'{"count":4,"entry":1,"label":"digits/round","mechanism":"sampled_gaussian",'
    b'"parameters":{"noise_multiplier":2.0,"sample_rate":0.25},"release":"r1"}\n'
)
FORMAT_2 = (
    b"2c5495756aa935ef7078c16563ac4fa2afe7d9918aeefc0e1fd523c9263a6090 "
    b'{"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/2","level":"example"}\n'
    b"9c3700c3824eacb739dcdaf176e0895b98ca22a53fc36b8e6ad08e56c7f7c1cf "
    b'{"delta":1e-06,"entry":1,"epsilon":4.0,"task":"digits"}\n'
    b"db0473ec035ea8d7b261f321ae0fcf0bdad4d1727c780527a72d9b760623b677 "
    b'{"count":4,"entry":2,"label":"digits/round","mechanism":"sampled_gaussian",'
    b'"parameters":{"noise_multiplier":2.0,"sample_rate":0.25},"release":"r1"}\n'
    b"592149a5298cb026219efad06d94bcb83326d72319c9126f449f9ee1716f4cbb "
    b'{"count":4,"entry":3,"mechanism":"sampled_gaussian",'
    b'"parameters":{"noise_multiplier":2.5,"sample_rate":0.25},"settles":2}\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.ledger"


def opened(path: Path, **changes: object) -> FileLedger:
    return FileLedger(path, **{"epsilon": 8.0, "delta": 1e-5, **changes})


def test_a_ledger_remembers_what_was_charged(path: Path) -> None:
    with opened(path) as ledger:
        before = ledger.head
        ledger.charge(ROUND)
        ledger.charge(ROUND, release_id="r2")
        spent, head = ledger.epsilon(1e-5), ledger.head
    assert spent == epsilon([ROUND, ROUND], 1e-5) > 0
    assert head.entries == before.entries + 2
    with opened(path) as ledger:
        assert ledger.epsilon(1e-5) == spent
        assert ledger.head == head
        assert [c.event for c in ledger.charges] == [ROUND, ROUND]
        assert [c.event.label for c in ledger.charges] == ["digits/round"] * 2
        assert [c.release_id for c in ledger.charges] == [None, "r2"]


def test_the_bytes_of_a_ledger_are_pinned(path: Path) -> None:
    """Golden bytes: a ledger of today is read tomorrow."""
    with opened(path) as ledger:
        ledger.for_task("digits", epsilon=4.0, delta=1e-6).charge(ROUND, release_id="r1")
        ledger.settle(2, PrivacyEvent(ROUND.mechanism, {**ROUND.parameters, "noise_multiplier": 2.5}, ROUND.count))
    assert path.read_bytes() == FORMAT_2


def test_a_ledger_of_format_1_is_read_and_continued(path: Path) -> None:
    path.write_bytes(FORMAT_1)
    with opened(path) as ledger:
        assert ledger.level == "example"
        assert [charge.event for charge in ledger.charges] == [ROUND]
        ledger.charge(ROUND)
        ledger.for_task("digits", epsilon=4.0, delta=1e-5).charge(ROUND)  # whose budget it does not keep
        with pytest.raises(ConfigError, match="has no settlements"):
            ledger.settle(1, ROUND)
        assert ledger.head.entries == 4
    assert path.read_bytes().startswith(FORMAT_1)
    assert path.read_bytes().count(b"\n") == 4
    with opened(path) as ledger:
        assert ledger.epsilon() == epsilon([ROUND] * 3, 1e-5)
    with pytest.raises(ConfigError, match="is of the example level, the client level was asked for"):
        opened(path, level="client")


def test_an_interrupted_creation_by_an_earlier_version_is_taken_up_again(path: Path) -> None:
    path.write_bytes(FORMAT_1[:90])
    opened(path).close()
    assert b"fedmesh-ledger/2" in path.read_bytes()
    path.write_bytes(FORMAT_1[:90])
    with pytest.raises(LedgerError, match="not a privacy ledger"):
        opened(path, level="client")


def test_a_file_ledger_is_a_ledger(path: Path) -> None:
    ledger: Ledger = opened(path)
    assert ledger.epsilon(1e-5) == 0
    ledger.close()  # type: ignore[attr-defined]


def test_only_its_owner_can_read_it(path: Path) -> None:
    opened(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_whole_budget_can_be_spent_and_not_more(path: Path) -> None:
    z = noise_multiplier(8.0, 1e-5, 0.25, 20)
    event = DpSettings(8.0, 1e-5, 1.0, z, 0.25, 4, 32.0).event("r")
    with opened(path) as ledger:
        for _ in range(5):
            ledger.charge(event)
        size = path.stat().st_size
        with pytest.raises(BudgetError, match=r"epsilon 8 at delta 1e-05; [78][.0-9]* of it is spent, and with 'r'"):
            ledger.charge(event)
        assert path.stat().st_size == size
        assert len(ledger.charges) == 5
        assert ledger.epsilon() <= 8.0
    with opened(path) as ledger, pytest.raises(BudgetError):
        ledger.charge(event)


def test_the_budget_holds_to_the_last_digit(tmp_path: Path) -> None:
    cost = epsilon([ROUND], 1e-5, "rdp")
    with opened(tmp_path / "exact", epsilon=cost) as ledger:
        ledger.charge(ROUND)
    with opened(tmp_path / "short", epsilon=math.nextafter(cost, 0)) as ledger, pytest.raises(BudgetError):
        ledger.charge(ROUND)


def test_a_smaller_step_still_fits_after_a_refusal(path: Path) -> None:
    with opened(path, epsilon=1.0) as ledger:
        with pytest.raises(BudgetError):
            ledger.charge(ROUND)
        ledger.charge(DpSettings(8.0, 1e-5, 1.0, 50.0, 0.25, 1, 32.0).event())


def test_the_same_release_again_is_free_even_over_budget_and_after_reopening(path: Path) -> None:
    budget = epsilon([ROUND], 1e-5, "rdp")
    with opened(path, epsilon=budget) as ledger:
        ledger.charge(ROUND, release_id="a")
        ledger.charge(ROUND, release_id="a")
        assert len(ledger.charges) == 1
    with opened(path, epsilon=budget) as ledger:
        ledger.charge(ROUND, release_id="a")
        assert len(ledger.charges) == 1
        with pytest.raises(BudgetError):
            ledger.charge(ROUND, release_id="b")
        with pytest.raises(BudgetError):
            ledger.charge(ROUND)


def test_a_release_id_stands_for_one_event(path: Path) -> None:
    other = PrivacyEvent(ROUND.mechanism, {**ROUND.parameters, "noise_multiplier": 3.0}, ROUND.count)
    with opened(path) as ledger:
        ledger.charge(ROUND, release_id="a")
        with pytest.raises(LedgerError, match="another event"):
            ledger.charge(other, release_id="a")


def test_without_a_release_id_everything_is_charged(path: Path) -> None:
    with opened(path) as ledger:
        ledger.charge(ROUND)
        ledger.charge(ROUND)
        assert len(ledger.charges) == 2


def test_release_ids_name_all_their_parts() -> None:
    ids = [
        release_id("a", 1),
        release_id("a", "1"),
        release_id("a1"),
        release_id(b"a", 1),
        release_id("a", 1, b""),
        release_id("", "a", 1),
    ]
    assert len(set(ids)) == len(ids)
    assert release_id("a", 1) == ids[0]
    assert all(len(i) == 32 for i in ids)


@pytest.mark.parametrize(("epsilon", "delta"), [(4.0, 1e-5), (9.0, 1e-5), (8.0, 1e-6)])
def test_a_budget_is_not_changed_on_the_way(path: Path, epsilon: float, delta: float) -> None:
    opened(path).close()
    with pytest.raises(ConfigError, match=r"opened for epsilon 8\.0 at delta 1e-05"):
        FileLedger(path, epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (float("inf"), 1e-5), (float("nan"), 1e-5), (8.0, 0.0)])
def test_a_budget_that_means_nothing_is_refused(path: Path, epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigError, match="means nothing"):
        FileLedger(path, epsilon=epsilon, delta=delta)
    assert not path.exists()


def test_an_event_that_cannot_be_accounted_for_is_not_entered(path: Path) -> None:
    with opened(path) as ledger:
        size = path.stat().st_size
        with pytest.raises(ConfigError):
            ledger.charge(PrivacyEvent("unheard-of", {}))
        assert path.stat().st_size == size


def test_an_entry_is_bounded(path: Path) -> None:
    with opened(path) as ledger:
        with pytest.raises(LedgerError, match="4096"):
            ledger.charge(PrivacyEvent(ROUND.mechanism, ROUND.parameters, 4, "x" * 5000))
        ledger.charge(PrivacyEvent(ROUND.mechanism, ROUND.parameters, 4, 'näh\n"\\ \0'))
    with opened(path) as ledger:
        assert ledger.charges[0].event.label == 'näh\n"\\ \0'


def test_one_at_a_time(path: Path) -> None:
    with opened(path), pytest.raises(LedgerError, match="another process"):
        opened(path)
    opened(path).close()


def test_a_closed_ledger_charges_nothing(path: Path) -> None:
    ledger = opened(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="open it again"):
        ledger.charge(ROUND)


def test_repr_tells_where_and_how_much(path: Path) -> None:
    with opened(path) as ledger:
        assert repr(ledger) == f"FileLedger({str(path)!r}, entries=1)"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does: the kernel writes up to the limit and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, 100])
def test_without_room_nothing_is_charged_and_later_all_goes_on(path: Path, room: int) -> None:
    with opened(path) as ledger:
        ledger.charge(ROUND)
        size = path.stat().st_size
        with files_no_larger_than(size + room), pytest.raises(LedgerError, match=r"Nothing was charged.*make room"):
            ledger.charge(ROUND)
        assert path.stat().st_size == size
        assert len(ledger.charges) == 1
        ledger.charge(ROUND)
    with opened(path) as ledger:
        assert len(ledger.charges) == 2


def test_without_room_a_ledger_is_not_created_and_can_be_later(path: Path) -> None:
    with files_no_larger_than(20), pytest.raises(LedgerError, match="make room"):
        opened(path)
    with opened(path) as ledger:
        ledger.charge(ROUND)


@pytest.mark.parametrize("place", ["/proc/fedmesh.ledger", "missing/device.ledger", "."])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(LedgerError, match="cannot be opened for writing"):
        opened(tmp_path / place)


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="regular file"):
        opened(Path("/dev/null"))
    opened(tmp_path / "real").close()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(LedgerError, match="cannot be opened"):
        opened(tmp_path / "link")


def test_an_interrupted_write_is_cut_off_wherever_it_stopped(path: Path) -> None:
    with opened(path) as ledger:
        ledger.charge(ROUND)
        two = path.stat().st_size
        ledger.charge(ROUND, release_id="cut")
    whole = path.read_bytes()
    for end in range(two, len(whole)):
        path.write_bytes(whole[:end])
        with opened(path) as ledger:
            assert len(ledger.charges) == 1
            assert path.stat().st_size == two
    with opened(path) as ledger:
        ledger.charge(ROUND)
    assert len(parse(path.read_bytes()).charges) == 2


def test_an_interrupted_creation_is_taken_up_again(path: Path) -> None:
    opened(path).close()
    whole = path.read_bytes()
    for torn in [whole[:end] for end in range(len(whole))] + [bytes(len(whole)), whole[:30] + bytes(40)]:
        path.write_bytes(torn)
        opened(path).close()
        assert path.read_bytes() == whole


def test_zeros_that_a_power_cut_left_are_cut_off(path: Path) -> None:
    with opened(path) as ledger:
        ledger.charge(ROUND)
    whole = path.read_bytes()
    with opened(path) as ledger:
        ledger.charge(ROUND)
    second = path.read_bytes()[len(whole) :]
    for tail in (bytes(300), second[:50] + bytes(100), bytes(100) + second[100:]):
        path.write_bytes(whole + tail)
        with opened(path) as ledger:
            assert len(ledger.charges) == 1
        assert path.read_bytes() == whole
