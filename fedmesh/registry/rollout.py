"""Which of the versions that may run is to run, on how many devices, from when: what the role ``rollout`` signs.

Whoever holds this role's key chooses among what the signers of targets allowed, and can let nothing else run. A device
that is among the first 5 percent is among the first 25: ``a <= b`` implies that who is in at `a` is in at `b`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from fedmesh.errors import RegistryError
from fedmesh.registry.fields import Fields
from fedmesh.registry.limits import ROLLOUT_BYTES
from fedmesh.wire import dumps

__all__ = ["ROLLOUT_TARGET", "Rollout"]

ROLLOUT_TARGET = "rollout.cbor"
_FORMAT = "fedmesh-rollout/1"
_PARTS = 10_000  # hundredths of a percent


@dataclass(frozen=True, slots=True)
class Rollout:
    """What is to run.

    Attributes:
        version: which; below it: what everybody runs who is not asked yet goes on running.
        percent: of the devices, 0 to 100; the others wait.
        not_before: seconds since 1970; before it nobody begins.
        tags: what a device must have to be asked; empty: any device.

    Raises:
        RegistryError: ``malformed``.
    """

    version: int
    percent: float = 100.0
    not_before: int = 0
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (
            self.version < 1
            or not 0 <= self.percent <= 100
            or not 0 <= self.not_before < 1 << 40
            or len(self.tags) > 16
        ):
            raise RegistryError(
                f"a rollout of version {self.version} to {self.percent} percent at {self.not_before} is not possible: "
                "0 to 100 percent, 16 tags at most",
                code="malformed",
            )

    def includes(self, device: str, tags: Iterable[str], now: float) -> bool:
        """Whether the device of this name, with these tags, is asked to run the version now."""
        drawn = hashlib.sha256(f"{_FORMAT}\n{self.version}\n{device}".encode()).digest()
        share = int.from_bytes(drawn[:8], "big") % _PARTS
        return now >= self.not_before and set(tags).issuperset(self.tags) and share < self.percent * (_PARTS / 100)

    def encode(self) -> bytes:
        """The file's content."""
        return dumps(
            {
                "format": _FORMAT,
                "version": self.version,
                "percent": float(self.percent),
                "not_before": self.not_before,
                "tags": list(self.tags),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The rollout in a file's content. Raises: RegistryError: ``malformed``: it is none."""
        fields = Fields.read(data, _FORMAT, max_bytes=ROLLOUT_BYTES)
        made = cls(
            fields.take("version", int),
            fields.take("percent", float),
            fields.take("not_before", int),
            fields.texts("tags"),
        )
        fields.finish()
        return made
