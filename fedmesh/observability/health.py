"""Whether a node is alive and whether it is ready, each as a list of probes that say what is wrong."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Health", "Heartbeat", "Probe"]

Probe = Callable[[], str | None]
"""What is wrong, in a few words that anyone may read; None: nothing. Called from another thread, and quick."""


class Heartbeat:
    """A loop that says it turns: `beat` at every turn, also of one in which there was nothing to do."""

    def __init__(self, within_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._within_s, self._clock = within_s, clock
        self._last = clock()

    def beat(self) -> None:
        """The loop turned."""
        self._last = self._clock()

    def __call__(self) -> str | None:
        """As a `Probe`: wrong where the last beat is longer ago than it may be."""
        silent_s = self._clock() - self._last
        return None if silent_s <= self._within_s else f"the loop has not turned for {silent_s:.0f} s"


@dataclass(slots=True)
class Health:
    """Named probes: `alive` for ``/healthz`` (or restart the process), `ready` for ``/readyz`` (or send it nothing).

    A node is not ready when it is not alive. A probe that raises is wrong.
    """

    alive: dict[str, Probe] = field(default_factory=dict)
    ready: dict[str, Probe] = field(default_factory=dict)

    def dead(self) -> dict[str, str]:
        """Name -> what is wrong with being alive."""
        return _wrong(self.alive)

    def unready(self) -> dict[str, str]:
        """Name -> what is wrong with being ready."""
        return _wrong(self.alive) | _wrong(self.ready)


def _wrong(probes: Mapping[str, Probe]) -> dict[str, str]:
    found = {}
    for name, probe in list(probes.items()):
        try:
            fault = probe()
        except Exception as error:  # noqa: BLE001 - a probe that fails is the fault to be told
            fault = f"the probe failed: {type(error).__name__}"
        if fault is not None:
            found[name] = fault
    return found
