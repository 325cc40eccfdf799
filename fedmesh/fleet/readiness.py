"""Whether this device works now: the operator's rules, and a rest after trainings that failed one after another."""

import time
from collections.abc import Awaitable, Callable
from datetime import datetime

from fedmesh.client.eligibility import Facts, reason
from fedmesh.client.facts import ask, read_facts
from fedmesh.configuration.device import EligibilitySection

__all__ = ["FAILURES", "REST_S", "Readiness"]

FAILURES = 3
"""So many failures in a row, and the device rests."""
REST_S = 900.0


def _here() -> datetime:
    return datetime.now().astimezone()


class Readiness:
    """Asked before anything new is begun.

    Args:
        rules: the operator's.
        facts: (wall clock time, what the hook said) -> what is known.
        hook: (``module:function``) -> what it says.
        local: wall clock time; monotonic: seconds.
    """

    def __init__(
        self,
        rules: EligibilitySection,
        *,
        facts: Callable[[datetime, bool | None], Facts] = lambda local, hook: read_facts(local, hook=hook),
        hook: Callable[[str], Awaitable[bool | None]] = ask,
        local: Callable[[], datetime] = _here,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules, self._facts, self._hook, self._local, self._monotonic = rules, facts, hook, local, monotonic
        self._failures = 0
        self._rests_until = 0.0

    async def why_not(self) -> str:
        """Why nothing is begun now, one word of the protocol; empty: it is."""
        if self._monotonic() < self._rests_until:
            return "limits"
        said = None if self._rules.hook is None else await self._hook(self._rules.hook)
        return reason(self._rules, self._facts(self._local(), said))

    def ended(self, *, well: bool) -> None:
        """A training ended: of its own accord, or by a limit or a crash."""
        self._failures = 0 if well else self._failures + 1
        if self._failures >= FAILURES:
            self._failures, self._rests_until = 0, self._monotonic() + REST_S
