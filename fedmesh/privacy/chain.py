r"""The ledger's format, apart from any file: lines chained by SHA-256 (as in Haber and Stornetta 1991).

A ledger is UTF-8 text, one entry a line: ``<hash> <body>\n``. The body is compact JSON with sorted keys; the hash is
64 hex digits of SHA-256 over the previous line's hash (32 bytes, zeros before the first) and the body's bytes. Entry 0
holds the format and the budget, every other entry one charge::

    {"delta":1e-05,"entry":0,"epsilon":8.0,"format":"fedmesh-ledger/1"}
    {"count":4,"entry":1,"label":"digits/round-1","mechanism":"sampled_gaussian",
     "parameters":{"noise_multiplier":1.9,"sample_rate":0.25},"release":null}      (one line in the file)

The chain shows an edit, a lost or a doubled line. The hash has no key: whoever can write the file can also write a
whole new one, or cut whole lines off its end. `Head`, kept elsewhere, shows that.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmesh.errors import LedgerError
from fedmesh.types import PrivacyEvent

__all__ = ["FORMAT", "Chain", "Charge", "Head", "charge_line", "opening_line", "parse"]

FORMAT = "fedmesh-ledger/1"
MAX_LINE_BYTES = 4096
_START = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger ended once: number of lines, and the last one's hash in hex. Keep it where the ledger is not."""

    entries: int
    digest: str


@dataclass(frozen=True, slots=True)
class Charge:
    """One entry: what was paid for, and the release that may be repeated for nothing because it repeats its noise."""

    event: PrivacyEvent
    release_id: str | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A ledger's contents.

    Attributes:
        epsilon, delta: the budget of entry 0; None when there is no entry yet.
        charges: entries 1, 2, ... in order.
        heads: the head after each entry, first to last.
        size: bytes up to the end of the last entry; what follows is the torn tail of an interrupted write.
    """

    epsilon: float | None
    delta: float | None
    charges: tuple[Charge, ...]
    heads: tuple[Head, ...]
    size: int


def opening_line(epsilon: float, delta: float) -> tuple[bytes, Head]:
    """Entry 0 of a new ledger, and the head after it."""
    return _line({"delta": delta, "entry": 0, "epsilon": epsilon, "format": FORMAT}, Head(0, _START.hex()))


def charge_line(charge: Charge, head: Head) -> tuple[bytes, Head]:
    """The line that follows `head`, and the head after it.

    Raises:
        LedgerError: the entry would be longer than 4,096 bytes.
    """
    event = charge.event
    body = {
        "count": event.count,
        "entry": head.entries,
        "label": event.label,
        "mechanism": event.mechanism,
        "parameters": dict(event.parameters),
        "release": charge.release_id,
    }
    return _line(body, head)


def parse(data: bytes, *, known: Head | None = None) -> Chain:
    """Reads a ledger and checks every hash.

    An interrupted last write is left out: a last line that has no end, or holds the zero bytes that a file system puts
    where it had no time to write. Its charge never returned, so its step was never taken.

    Args:
        data: the file's bytes.
        known: a head kept elsewhere, which the ledger must contain.

    Raises:
        LedgerError: any other damage, or `known` is not in it.
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
        raise _damaged(head.entries, "is neither whole nor the rest of one interrupted write")
    _check_contains(heads, known)
    if not bodies:
        return Chain(None, None, (), (), 0)
    epsilon, delta = _budget(bodies[0])
    charges = tuple(_charge(body, number) for number, body in enumerate(bodies[1:], start=1))
    return Chain(epsilon, delta, charges, tuple(heads), size)


def _check_contains(heads: list[Head], known: Head | None) -> None:
    if known is None or known.entries == 0:
        return
    if len(heads) < known.entries or heads[known.entries - 1] != known:
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
        raise _damaged(head.entries, "does not follow from the entry before it")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(head.entries, "is not JSON") from error
    if not isinstance(body, dict) or body.get("entry") != head.entries:
        raise _damaged(head.entries, "has another entry's number")
    return body, Head(head.entries + 1, digest.decode())


def _budget(body: Mapping[str, Any]) -> tuple[float, float]:
    if body.get("format") != FORMAT:
        raise LedgerError(f"the privacy ledger has format {body.get('format')!r}, this version reads {FORMAT!r}")
    epsilon, delta = body.get("epsilon"), body.get("delta")
    if set(body) != {"delta", "entry", "epsilon", "format"} or not _numbers(epsilon, delta):
        raise _damaged(0, "states no budget")
    return float(epsilon), float(delta)  # type: ignore[arg-type]  # _numbers has looked


def _charge(body: Mapping[str, Any], number: int) -> Charge:
    match body:
        case {
            "count": int(count),
            "entry": int(),
            "label": str(label),
            "mechanism": str(mechanism),
            "parameters": dict(parameters),
            "release": str() | None as release,
            **rest,
        } if not rest and count >= 1 and _numbers(count, *parameters.values()):
            values = {name: float(value) for name, value in parameters.items()}
            return Charge(PrivacyEvent(mechanism, values, count, label), release)
    raise _damaged(number, "is not a charge")


def _numbers(*values: object) -> bool:
    """Finite JSON numbers: Python's reader takes NaN and Infinity too, and true is an int."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _damaged(number: int, what: str) -> LedgerError:
    return LedgerError(
        f"the privacy ledger is damaged: entry {number} {what}. Restore it from a copy; without it nobody can say what "
        "this device has spent, and it must not train"
    )
