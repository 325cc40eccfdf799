"""The file of ``fedmesh peer run``: who this member of a mesh is, where it listens, whom it looks for, what it runs."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedmesh.configuration.learner import LearnerSections, Tier
from fedmesh.configuration.section import Section
from fedmesh.configuration.shared import BrokerSection
from fedmesh.configuration.values import Address, Dialled, Listen, PartyName, PathValue

__all__ = ["BridgeSection", "DiscoverySection", "MeshSection", "PeerConfig", "PublishSection"]

PORT = 7946
Addresses = Annotated[tuple[Dialled, ...], Field(strict=False, min_length=1, max_length=8)]


class DiscoverySection(Section):
    """Multicast DNS on our own links (docs/mesh-discovery.md). Seeds and addresses from before need none of it."""

    enabled: bool = True
    interfaces: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Empty: all that are up."""
    instance: str = ""
    """What everybody on the link reads as our name; empty: drawn anew at each start."""
    off_link: bool = False
    """Whether announced addresses of other links are tried: where a reflector carries announcements."""


class MeshSection(Section):
    """The member."""

    folder: PathValue
    """What it remembers: incarnation, addresses of others, and where nothing else is said its models."""
    listen: Annotated[tuple[Listen, ...], Field(strict=False, min_length=1, max_length=4)] = (
        Address("0.0.0.0", PORT),  # noqa: S104 - members are to reach it, and show certificates
    )
    addresses: Annotated[tuple[Dialled, ...], Field(strict=False, max_length=4)] = ()
    """Where others reach it; empty: where it listens, or all addresses of its interfaces."""
    connections: Annotated[int, Field(ge=2, le=1024)] = 64
    """Live ones at once, some 50 KB each; with fewer than there are members they take turns."""
    bytes_per_s: Annotated[float, Field(gt=0)] | None = None
    """Most that is sent, to all together; None: no limit."""
    relay: bool = True
    """Whether what two members say to each other who cannot reach each other is carried between them."""
    seeds: dict[PartyName, Addresses] = Field(default_factory=dict, max_length=64)
    """Members, and where they may be."""
    discovery: DiscoverySection = DiscoverySection()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.seeds and not self.discovery.enabled:
            raise ValueError("there are no seeds and discovery is off: nobody would be looked for; name [mesh.seeds]")
        return self


class PublishSection(Section):
    """A repository (``fedmesh model init``) whose versions this member gives to the mesh."""

    folder: PathValue


class BridgeSection(BrokerSection):
    """A broker, and a coordinator there, with whom this member exchanges what is signed."""

    coordinator: PartyName = "coordinator"
    """Whose models are fetched, and who is told of newer lists, and tells of them."""


class PeerConfig(LearnerSections):
    """A member of a mesh. With ``[data]`` it trains in the runs whose charter names it; without, it votes only."""

    mesh: MeshSection
    publish: PublishSection | None = None
    """None: nothing is published here."""
    bridge: BridgeSection | None = None
    """None: it is in the mesh alone."""

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.registry is not None and self.publish is not None:
            raise ValueError(
                "there is [registry] and [publish]: who publishes has the models already; run two members, or remove "
                "one of them"
            )
        if self.bridge is not None and self.bridge.coordinator in self.mesh.seeds:
            raise ValueError(
                f"{self.bridge.coordinator!r} is a seed and [bridge] coordinator, who is spoken with over MQTT: remove "
                "the seed"
            )
        return self

    @property
    def tier(self) -> Tier:
        """``full`` where it has something to train on: a lite device wants a coordinator that makes its features."""
        return "inference" if self.data is None else "full"

    @property
    def state_folder(self) -> Path:
        """Where ledgers and the memory of secure aggregation are: the mesh's folder."""
        return self.mesh.folder
