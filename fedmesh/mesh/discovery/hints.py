"""Facts between the parts of discovery: where somebody may be, and whom to try next."""

from dataclasses import dataclass
from enum import StrEnum

from fedmesh.mesh.discovery.addresses import Address

__all__ = ["Attempt", "Hint", "Source"]


class Source(StrEnum):
    """Who says that somebody is there. Few enough for the label of a counter."""

    SEED = "seed"
    KNOWN = "known"
    NEARBY = "nearby"


@dataclass(frozen=True, slots=True)
class Hint:
    """Somebody may be at these addresses; nothing of it is believed.

    Attributes:
        source: who says so. addresses: where.
        at: when it was said, seconds on a clock that only goes forward.
        key: what the source calls it; a newer hint of the same key replaces it.
    """

    source: Source
    addresses: tuple[Address, ...]
    at: float
    key: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An address to be tried, once.

    Attributes:
        source: who named it. address: where.
        name: whom the certificate there has to name; empty: whoever of the mesh is there.
        key: the hint's.
    """

    source: Source
    address: Address
    name: str
    key: str
