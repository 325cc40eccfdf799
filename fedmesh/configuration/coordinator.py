"""The file of ``fedmesh coordinator run``: where things are, and the tasks that run side by side."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from fedmesh.configuration.section import File, Section
from fedmesh.configuration.shared import BrokerSection, IdentitySection, IssuerSection, MetricsSection
from fedmesh.configuration.values import PartyName, PathValue, Positive, ScenarioValue

__all__ = ["CoordinatorConfig", "DataSection", "JournalSection", "RegistrySection", "RoundSection", "TaskSection"]

_SQLITE_FILE = re.compile(r"^sqlite(?:\+[a-z0-9_]+)?:///(?!/|:memory:)(?P<file>[^?]+)")
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_URL = re.compile(r"^(?:sqlite|postgresql)(?:\+[a-z0-9_]+)?://")


def _journal(url: Any, info: ValidationInfo) -> Any:
    """A URL whose file is relative to the configuration's folder, as every other path is."""
    if not isinstance(url, str) or not url:
        return url
    if not _URL.match(url):  # the URL itself may hold a password
        raise ValueError("wanted a URL of SQLAlchemy, as sqlite:///runs.sqlite3 or postgresql+psycopg://HOST/NAME")
    folder = (info.context or {}).get("folder")
    match = _SQLITE_FILE.match(url)
    if folder is None or match is None:
        return url
    return f"{url[: match.start('file')]}{(folder / match['file']).absolute()}{url[match.end('file') :]}"


class JournalSection(Section):
    """The store of runs."""

    url: Annotated[str, BeforeValidator(_journal), Field(repr=False)] = ""
    """Of SQLAlchemy; empty: a SQLite file in the data folder. A password is better left to PGPASSFILE."""


class DataSection(Section):
    """State, run directories and, where nothing else is said, journal and registry."""

    folder: PathValue
    datasets: PathValue | None = None
    """Where the public data sets of scenarios are; None: those that come with scikit-learn."""


class RegistrySection(Section):
    """The signed models that devices fetch."""

    enabled: bool = True
    folder: PathValue | None = None
    """None: ``registry`` in the data folder."""
    task: TaskName | None = None
    """Whose models are delivered; None: those of the only task; of several none are."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Rounds between two versions; the last round's model is one in any case."""


class RoundSection(Section):
    """How a round is held: `fedmesh.coordinator.RoundSettings` (docs/runs.md). What is None is as the scenario says."""

    wanted: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Trained devices with which a round goes on; None: all of the scenario's share of those that are there."""
    over_selection: Annotated[float, Field(ge=1, le=10)] = 1.0
    """So many times as many as are wanted are asked; the round goes on when enough have trained."""
    deadline_s: Positive = 600.0
    """A step of a round does not wait longer."""
    train_deadline_s: Positive | None = None
    """Nor does the step in which devices train; None: `deadline_s`."""
    quorum: Annotated[int, Field(ge=1)] | None = None
    """Fewest updates that make a round."""
    min_devices: Annotated[int, Field(ge=1)] | None = None
    """A round begins when so many are present and willing; None: the quorum, or what a secure sum takes."""
    wait_s: Positive = 3600.0
    """How long to wait for them before the round is given up."""
    pause_s: Annotated[float, Field(ge=0, le=31_536_000)] = 0.0
    """Between two rounds."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.wanted is None:
            if self.over_selection > 1:
                raise ValueError("over_selection is a multiple of wanted, which is missing: add it")
            return self
        for name, most in (("quorum", self.wanted), ("min_devices", self.asked)):
            value = getattr(self, name)
            if value is not None and most is not None and value > most:
                raise ValueError(f"{name} is {value}, but a round has {most} devices: lower it")
        return self

    @property
    def asked(self) -> int | None:
        """Devices that a round asks; None: the scenario's share of those that are there."""
        return None if self.wanted is None else math.ceil(round(self.wanted * self.over_selection, 9))


class TaskSection(Section):
    """One federation; several run side by side."""

    scenario: ScenarioValue
    """A path, or the name of one that came with fedmesh."""
    name: TaskName | None = None
    """Of the task, for devices, ledgers and logs; None: the scenario's."""
    devices: Annotated[tuple[PartyName, ...], Field(strict=False)] = ()
    """Who is asked; empty: every enrolled device."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """None: the scenario's."""
    lite_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Above 0 lite devices may take part beside full ones, however many come; None: the scenario's."""
    round: RoundSection = RoundSection()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(set(self.devices)) != len(self.devices):
            raise ValueError("devices names somebody twice")
        for name in ("wanted", "asked", "quorum", "min_devices"):
            value = getattr(self.round, name)
            if self.devices and value is not None and value > len(self.devices):
                raise ValueError(
                    f"round.{name} is {value}, but devices names {len(self.devices)}: lower it, or name more"
                )
        return self


class CoordinatorConfig(File):
    """A coordinator."""

    identity: IdentitySection
    broker: BrokerSection
    data: DataSection
    journal: JournalSection = JournalSection()
    registry: RegistrySection = RegistrySection()
    metrics: MetricsSection = MetricsSection()
    issuer: IssuerSection = IssuerSection()
    task: Annotated[tuple[TaskSection, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [task.name or task.scenario for task in self.task]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tasks are called {twice[0]!r}: give each [[task]] a name of its own")
        return self

    @property
    def journal_url(self) -> str:
        """Of SQLAlchemy."""
        return self.journal.url or f"sqlite:///{(self.data.folder / 'runs.sqlite3').absolute()}"

    @property
    def registry_folder(self) -> Path:
        """Where signed models are; to be looked at only with `registry.enabled`."""
        return self.registry.folder or self.data.folder / "registry"
