r"""The ledger's format, apart from any file: lines chained by SHA-256 (as in Haber and Stornetta 1991).

A ledger is UTF-8 text, one entry a line: ``<hash> <body>\n``. The body is compact JSON with sorted keys
(`fedmesh.privacy.entries`); the hash is 64 hex digits of SHA-256 over the previous line's hash (32 bytes, zeros before
the first) and the body's bytes.

The chain shows an edit, a lost or a doubled line. The hash has no key: whoever can write the file can also write a
whole new one, or cut whole lines off its end. A `Head` kept elsewhere shows that (`fedmesh.privacy.anchor`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmesh.errors import LedgerError
from fedmesh.privacy.entries import (
    Charge,
    Entry,
    Opening,
    damaged,
    entry_body,
    opening_body,
    read_entry,
    read_opening,
)

__all__ = ["Chain", "Charge", "Head", "check_contains", "entry_line", "opening_line", "parse"]

MAX_LINE_BYTES = 4096
_START = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger ended once: number of lines, and the last one's hash in hex. Keep it where the ledger is not."""

    entries: int
    digest: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A ledger's contents.

    Attributes:
        opening: entry 0; None when there is no entry yet.
        entries: entries 1, 2, ... in order.
        heads: the head after each entry, first to last.
        size: bytes up to the end of the last entry; what follows is the torn tail of an interrupted write.
    """

    opening: Opening | None
    entries: tuple[Entry, ...]
    heads: tuple[Head, ...]
    size: int

    @property
    def charges(self) -> tuple[Charge, ...]:
        """The charges among the entries, as they were entered."""
        return tuple(entry for entry in self.entries if isinstance(entry, Charge))


def opening_line(opening: Opening) -> tuple[bytes, Head]:
    """Entry 0 of a new ledger, and the head after it."""
    return _line(opening_body(opening), Head(0, _START.hex()))


def entry_line(entry: Entry, head: Head) -> tuple[bytes, Head]:
    """The line that follows `head`, and the head after it.

    Raises:
        LedgerError: the entry would be longer than 4,096 bytes.
    """
    return _line(entry_body(entry, head.entries), head)


def parse(data: bytes, *, known: Iterable[Head] = ()) -> Chain:
    """Reads a ledger and checks every hash.

    An interrupted last write is left out: a last line that has no end, or holds the zero bytes that a file system puts
    where it had no time to write. Its charge never returned, so its step was never taken.

    Args:
        data: the file's bytes.
        known: heads kept elsewhere, which the ledger must contain.

    Raises:
        LedgerError: any other damage, or a known head is not in it.
    """
    head, size = Head(0, _START.hex()), 0
    bodies: list[dict[str, Any]] = []
    heads: list[Head] = []
    while (end := data.find(b"\n", size) + 1) > 0:
        line = data[size:end]
        if end == len(data) and b"\0" in line:
            break
        body, head = _read(line, head)
        bodies.append(body)
        heads.append(head)
        size = end
    if not _is_torn(data[size:], head):
        raise damaged(head.entries, "is neither whole nor the rest of one interrupted write")
    for one in known:
        check_contains(heads, one)
    if not bodies:
        return Chain(None, (), (), 0)
    opening = read_opening(bodies[0])
    entries = tuple(read_entry(body, number, opening.format) for number, body in enumerate(bodies[1:], start=1))
    return Chain(opening, entries, tuple(heads), size)


def check_contains(heads: Sequence[Head], known: Head) -> None:
    """Raises: LedgerError: a ledger of `heads` does not contain the head `known` that was kept elsewhere."""
    if known.entries and (len(heads) < known.entries or heads[known.entries - 1] != known):
        raise LedgerError(
            f"the privacy ledger was rolled back or replaced: {known.entries} entries ending in {known.digest[:12]} "
            f"are known of it, and its {len(heads)} do not contain them: restore it, this device must not train"
        )


def _digest(previous: str, body: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(previous) + body).hexdigest()


def _line(body: Mapping[str, Any], head: Head) -> tuple[bytes, Head]:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    digest = _digest(head.digest, text)
    line = digest.encode() + b" " + text + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise LedgerError(f"a ledger entry of {len(line)} bytes is longer than {MAX_LINE_BYTES}: shorten its label")
    return line, Head(head.entries + 1, digest)


def _is_torn(tail: bytes, head: Head) -> bool:
    """Whether an interrupted write of one entry can have left `tail`: not if a whole entry and more are in it."""
    entry, _, more = tail.partition(b"\0")
    return len(tail) <= MAX_LINE_BYTES and not (more and _follows(entry, head))


def _follows(entry: bytes, head: Head) -> bool:
    digest, _, text = entry.partition(b" ")
    return digest == _digest(head.digest, text).encode()


def _read(line: bytes, head: Head) -> tuple[dict[str, Any], Head]:
    digest, _, text = line[:-1].partition(b" ")
    if len(line) > MAX_LINE_BYTES or not _follows(line[:-1], head):
        raise damaged(head.entries, "does not follow from the entry before it")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(head.entries, "is not JSON") from error
    if not isinstance(body, dict) or body.get("entry") != head.entries:
        raise damaged(head.entries, "has another entry's number")
    return body, Head(head.entries + 1, digest.decode())
