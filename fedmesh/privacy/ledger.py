"""A device's record of privacy spent: durable before the step that it pays for.

Guarantees: when `FileLedger.charge` returns, the entry is on the disk; when it raises, the step must not be taken, and
a charge over the budget always raises. A crash between the two is charged. An entry that was being written is cut off,
for its charge never returned. An edit of the file is found when it is opened, and, while it is open, at the next
charge. One process at a time holds it.

Does not guarantee: whoever can write the file can replace it by an older or an empty one. Keep `FileLedger.head` where
the file is not, and pass it as `known`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.privacy.chain import Chain, Charge, Head, charge_line, opening_line, parse
from fedmesh.privacy.durable import DurableFile
from fedmesh.types import PrivacyEvent

__all__ = ["FileLedger", "release_id"]


def release_id(*parts: str | int | bytes) -> str:
    """Names a release: 32 hex digits of SHA-256 over `parts`.

    Name all that it is computed from: task, round, device and the bytes of the start weights. The same id then means
    the same output, which costs nothing to send twice, and it gives `KeyedNoise` a key that no other release has.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode() + data)
    return digest.hexdigest()[:32]


class FileLedger:
    """An append-only ledger in a file; a context manager that holds the file.

    Opening verifies all of it, or creates it with the budget given. Open it for a round and close it after: another
    process may serve the device next.

    Args:
        path: the file; its directory must exist.
        epsilon, delta: the device's budget; the one that the ledger was created with.
        known: a head kept elsewhere; the ledger must contain it.

    Raises:
        ConfigError: the budget means nothing, or is not the ledger's.
        LedgerError: damaged, rolled back, held by another process, or not writable.
    """

    def __init__(self, path: Path | str, *, epsilon: float, delta: float, known: Head | None = None) -> None:
        if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
            raise ConfigError(
                f"a budget of epsilon {epsilon} at delta {delta} means nothing: e.g. epsilon 8, delta 1e-5"
            )
        self._path = Path(path)
        self._epsilon, self._delta = float(epsilon), float(delta)
        self._charges: list[Charge] = []
        self._totals: Counter[tuple[str, tuple[tuple[str, float], ...]]] = Counter()
        self._releases: dict[str, PrivacyEvent] = {}
        self._file = DurableFile(self._path)
        try:
            self._head = self._load(known)
        except BaseException:
            self._file.close()
            raise

    @property
    def head(self) -> Head:
        """Where the ledger ends now."""
        return self._head

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All that was charged, first to last."""
        return tuple(self._charges)

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        """Enters `event`; it is on the disk when this returns.

        Args:
            event: what is about to be spent, e.g. all steps of a round.
            release_id: only with noise that the same id repeats (`KeyedNoise`): a release that is in the ledger already
                is the same output again and costs nothing. None, with noise from the system: always charged.

        Raises:
            BudgetError: the budget does not cover it; nothing was written.
            LedgerError: it cannot be made durable, or the id stands for another event. Do not take the step.
        """
        if release_id is not None and release_id in self._releases:
            self._check_same(release_id, event)
            return
        self._check_budget(event)
        charge = Charge(event, release_id)
        line, head = charge_line(charge, self._head)
        self._file.append(line)
        self._head = head
        self._enter(charge)

    def epsilon(self, delta: float | None = None) -> float:
        """Epsilon spent so far by PLD, at `delta` or else at the budget's.

        Raises:
            TrustError: the accountants contradict each other.
        """
        from fedmesh.privacy.accountant import spent

        return spent(self._events(), self._delta if delta is None else delta)

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FileLedger({str(self._path)!r}, entries={self._head.entries})"

    def _load(self, known: Head | None) -> Head:
        data = self._file.read()
        chain = parse(data, known=known)
        line, head = opening_line(self._epsilon, self._delta)
        if not chain.heads:
            self._check_unborn(data, line)
            self._file.cut(0)
            self._file.append(line)
            self._file.sync_directory()
            return head
        self._check_same_budget(chain)
        if chain.size < len(data):
            self._file.cut(chain.size)
        for charge in chain.charges:
            self._enter(charge)
        return chain.heads[-1]

    def _enter(self, charge: Charge) -> None:
        self._charges.append(charge)
        event = charge.event
        self._totals[event.mechanism, _sorted(event.parameters)] += event.count
        if charge.release_id is not None:
            self._releases[charge.release_id] = event

    def _events(self) -> list[PrivacyEvent]:
        return [PrivacyEvent(name, dict(items), count) for (name, items), count in self._totals.items()]

    def _check_budget(self, event: PrivacyEvent) -> None:
        from fedmesh.privacy.accountant import epsilon

        before = self._events()
        after = epsilon([*before, event], self._delta, "rdp")
        if after > self._epsilon:
            now, name = epsilon(before, self._delta, "rdp"), event.label or event.mechanism
            raise BudgetError(
                f"the privacy budget is epsilon {self._epsilon:g} at delta {self._delta:g}; {now:.4g} of it is spent, "
                f"and with {name!r} it would be {after:.4g}: this device declines"
            )

    def _check_same(self, release_id: str, event: PrivacyEvent) -> None:
        if self._releases[release_id] != event:
            raise LedgerError(
                f"release {release_id} was charged for another event: the same noise under other parameters cancels "
                "out; name every release by all that it is computed from"
            )

    def _check_same_budget(self, chain: Chain) -> None:
        if (chain.epsilon, chain.delta) != (self._epsilon, self._delta):
            raise ConfigError(
                f"the privacy ledger {self._path} was opened for epsilon {chain.epsilon} at delta {chain.delta}, now "
                f"epsilon {self._epsilon} at delta {self._delta} is asked for: a budget is not changed on the way; ask "
                "for the first one again"
            )

    def _check_unborn(self, data: bytes, line: bytes) -> None:
        """A ledger without an entry is a new one, or one whose creation was interrupted; nothing else."""
        if len(data) > len(line) or any(got not in {0, wanted} for got, wanted in zip(data, line, strict=False)):
            raise LedgerError(
                f"{self._path} is not a privacy ledger, or its first entry is damaged: restore it from a copy, or name "
                "another file"
            )


def _sorted(parameters: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, float(value)) for name, value in parameters.items()))
