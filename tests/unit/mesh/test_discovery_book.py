"""The book of addresses: ordered by last success, bounded, and begun anew when it is damaged."""

import stat
from pathlib import Path

import pytest

from fedmesh.errors import ConfigError
from fedmesh.events import Event, Notice
from fedmesh.mesh.discovery import Book
from fedmesh.wire import dumps

A, B, C = ("10.0.0.1", 1), ("10.0.0.2", 1), ("fe80::1%eth0", 1)


def test_what_worked_last_comes_first_and_what_is_only_said_last() -> None:
    book = Book()
    book.told("bert", [C])
    book.succeeded("bert", A)
    book.succeeded("bert", B)
    assert book.addresses("bert") == [B, A, C]
    book.succeeded("bert", A)
    assert book.addresses("bert") == [A, B, C]
    assert book.said("bert") == [C]
    assert book.best() == [("bert", A), ("bert", B), ("bert", C)]
    assert book.addresses("nobody") == []


def test_it_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "addresses"
    book = Book(path)
    book.succeeded("bert", A)
    book.succeeded("cleo", C)
    book.told("bert", [B])
    book.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Book(path)
    assert again.best() == [("cleo", C), ("bert", A), ("bert", B)]
    assert again.addresses("bert") == [A, B]
    again.succeeded("bert", A)
    assert again.best()[0] == ("bert", A)


def test_nothing_is_written_that_did_not_change(tmp_path: Path) -> None:
    path = tmp_path / "addresses"
    book = Book(path)
    book.save()
    assert not path.exists()
    book.told("bert", [A])
    book.save()
    path.unlink()
    book.told("bert", [A])
    book.save()
    assert not path.exists()


def test_what_is_said_replaces_what_was_said_and_nothing_that_worked() -> None:
    book = Book()
    book.succeeded("bert", A)
    book.told("bert", [A, B, *((f"10.9.9.{n}", 1) for n in range(100))])
    assert book.addresses("bert") == [A, B, ("10.9.9.0", 1), ("10.9.9.1", 1)]
    book.told("bert", [C])
    assert book.addresses("bert") == [A, C]
    for n in range(1, 100):
        book.succeeded("bert", ("10.8.8.8", n))
    assert book.addresses("bert") == [*(("10.8.8.8", n) for n in (99, 98, 97, 96)), C]


def test_who_was_met_longest_ago_gives_way() -> None:
    book = Book(members=3)
    book.succeeded("anna", A)
    book.told("bert", [B])
    book.succeeded("cleo", C)
    book.succeeded("dora", A)
    assert len(book) == 3
    assert not book.addresses("bert")
    book.succeeded("emil", A)
    assert len(book) == 3
    assert not book.addresses("anna")


def test_who_is_no_member_is_forgotten() -> None:
    book = Book()
    book.succeeded("bert", A)
    book.forget("bert")
    book.forget("nobody")
    assert len(book) == 0


DAMAGED = [
    b"",
    b"\xff" * 40,
    dumps(["fedmesh-addresses/9", []]),
    dumps(["fedmesh-addresses/1", [["bert", [["10.0.0.1:1", -1]]]]]),
    dumps(["fedmesh-addresses/1", [["bert", [["10.0.0.1", 1]]]]]),
    dumps(["fedmesh-addresses/1", [["bert", [["10.0.0.1:1", True]]]]]),
    dumps(["fedmesh-addresses/1", [["../bert", []]]]),
    dumps(["fedmesh-addresses/1", [["bert", [["10.0.0.1:1", 1 << 62]]]]]),
    dumps(["fedmesh-addresses/1", [["bert", [[f"10.0.0.1:{n}", 1] for n in range(1, 100)]]]]),
    dumps(["fedmesh-addresses/1", {"bert": 1}]),
    bytes(1 << 21),
]


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_book_is_told_and_begun_anew(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "addresses"
    path.write_bytes(data)
    told: list[Event] = []
    book = Book(path, events=told.append)
    assert len(book) == 0
    assert [type(event) for event in told] == [Notice]
    assert str(path) in str(told[0])
    book.succeeded("bert", A)
    book.save()
    assert Book(path, events=told.append).best() == [("bert", A)]
    assert len(told) == 1


def test_every_cut_of_a_book_is_damage_or_nothing(tmp_path: Path) -> None:
    book = Book()
    book.succeeded("bert", A)
    book.told("bert", [C])
    data = book.encoded()
    path = tmp_path / "addresses"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert len(Book(path)) == 0


def test_a_book_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    book = Book(tmp_path / "missing" / "addresses")
    book.succeeded("bert", A)
    with pytest.raises(ConfigError):
        book.save()
    (tmp_path / "missing").mkdir()
    book.save()
    assert len(Book(tmp_path / "missing" / "addresses")) == 1


def test_a_full_book_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "addresses"
    book = Book(path, members=256)
    for n in range(300):
        name = f"device-{n:04}-{'x' * 50}"
        book.told(name, [(f"fe80:1111:2222:3333:4444:5555:6666:{m}%wlan-interfac", 65535) for m in range(4)])
        for m in range(5, 9):
            book.succeeded(name, (f"fe80:1111:2222:3333:4444:5555:6666:{m}%wlan-interfac", 65535))
    book.save()
    assert len(Book(path)) == 256
    assert 4 * path.stat().st_size < 1 << 20  # as many as there are without an argument fit, too
