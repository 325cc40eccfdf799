"""What every device that learns says in its file, be it a client of a coordinator or a member of a mesh."""

import abc
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from fedmesh.configuration.device import EligibilitySection, LimitsSection, PrivacyPolicy, SecurePolicy
from fedmesh.configuration.section import File, Section
from fedmesh.configuration.shared import IdentitySection, IssuerSection, MetricsSection
from fedmesh.configuration.values import Function, PathValue, ScenarioValue

__all__ = ["DataSetData", "DataSource", "HookData", "Learner", "LearnerSections", "NpzData", "RegistrySection", "Tier"]

Tier = Literal["full", "lite", "inference"]
Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(strict=False)]


class NpzData(Section):
    """Examples in a file of NumPy: arrays ``x`` (float32, examples first) and ``y`` (int64)."""

    kind: Literal["npz"] = "npz"
    path: PathValue


class DataSetData(Section):
    """A part of a data set, for demonstrations: as a simulation would deal it to device `partition` of `of`."""

    kind: Literal["dataset"] = "dataset"
    name: ScenarioValue
    partition: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=1, le=1_000_000)]
    folder: PathValue | None = None
    """Where the data set is; None: it comes with scikit-learn."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.partition >= self.of:
            raise ValueError(f"partition is {self.partition} of {self.of}: they count from 0, so at most {self.of - 1}")
        return self


class HookData(Section):
    """Examples from a function of the device's own, called without arguments before a training; x and y as for npz."""

    kind: Literal["hook"] = "hook"
    function: Function


DataSource = NpzData | DataSetData | HookData


class RegistrySection(Section):
    """Whose models are believed."""

    trusted_root: PathValue
    """The root metadata (TUF) that was carried here with the installation; newer ones are signed by it."""
    folder: PathValue | None = None
    """Metadata that was seen, and the A/B slots; None: ``registry`` in the folder of what the device remembers."""


class LearnerSections(File, abc.ABC):
    """The tables and keys that they share."""

    identity: IdentitySection
    tasks: Names | None = None
    """Which tasks it takes part in; None: any that keeps to the policies below."""
    clients: Names | None = None
    """Which client apps (entry points of fedmesh.clients) may train here; None: any that is installed."""
    data: Annotated[DataSource, Field(discriminator="kind")] | None = None
    """What it trains on; it never leaves. Needed by who trains."""
    privacy: PrivacyPolicy = PrivacyPolicy()
    secure_aggregation: SecurePolicy = SecurePolicy()
    limits: LimitsSection = LimitsSection()
    eligibility: EligibilitySection = EligibilitySection()
    registry: RegistrySection | None = None
    """None: no model is fetched. Needed by inference."""
    metrics: MetricsSection = MetricsSection()
    issuer: IssuerSection = IssuerSection()

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        for name in ("tasks", "clients"):
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty, so nothing can be taken: name some, or leave it out for any")
        return self

    @property
    @abc.abstractmethod
    def state_folder(self) -> Path:
        """Where ledgers and the memory of secure aggregation are."""

    @property
    def registry_folder(self) -> Path:
        """Where the metadata that was seen and the models lie, as `fedmesh model` takes it."""
        named = self.registry.folder if self.registry else None
        return named or self.state_folder / "registry"


class Learner(Protocol):
    """A configuration with `LearnerSections`; see there."""

    identity: IdentitySection
    tasks: tuple[str, ...] | None
    clients: tuple[str, ...] | None
    data: DataSource | None
    privacy: PrivacyPolicy
    secure_aggregation: SecurePolicy
    limits: LimitsSection
    eligibility: EligibilitySection

    @property
    def tier(self) -> Tier:
        """What the device can do."""
        ...

    @property
    def state_folder(self) -> Path:
        """Where ledgers and the memory of secure aggregation are."""
        ...
