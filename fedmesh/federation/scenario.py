"""Scenarios: one TOML file that says what a federation is.

A scenario is read once, at the edge; unknown keys and wrong types are refused with the key's name. The same file
deploys.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedmesh.configuration.section import Section, parsed, read_tables
from fedmesh.errors import ConfigError

__all__ = [
    "ClientSection",
    "DataSection",
    "DeltaSection",
    "FailuresSection",
    "FeaturesSection",
    "ModelSection",
    "PartitionSection",
    "PrivacySection",
    "QuantizationSection",
    "Scenario",
    "SecureAggregationSection",
    "StrategySection",
    "SweepSection",
]

SMALLEST_COHORT = 4
"""Fewest devices of a secure sum: among fewer, one that colludes is a majority that counts."""

Options = dict[str, int | float | str | bool]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class DataSection(Section):
    """Which data set, and how much of it is public or held out."""

    name: str = "digits"
    public_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training examples (or, with a natural id, of the ids) that the server may see."""
    local_held_out_fraction: Share = 0.2
    """Share of each device's examples that it never trains on."""
    public_ids: Annotated[int, Field(ge=1)] | None = None
    """With natural ids: how many of them are public, instead of a share."""
    held_out: Literal["official", "ids"] = "official"
    """The global held-out examples. ``official``: the data set's test part, or else what the devices hold out.
    ``ids``: all examples of `held_out_ids` ids drawn from training and test part together."""
    held_out_ids: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if (self.held_out == "ids") != (self.held_out_ids is not None):
            raise ValueError("held_out = 'ids' and held_out_ids, their number, come together or not at all")
        return self


class FeaturesSection(Section):
    """Fixed features that the model sees instead of the examples: fitted on the public ones, frozen, sent to all."""

    name: str | None = None
    """An entry point of the group fedmesh.features; without it the model sees the examples themselves."""
    components: Annotated[int, Field(ge=1, le=4096)] = 200
    """Length of the vectors, without the constant."""
    bias: Positive = 0.3
    """The constant that is appended to a vector of unit norm."""
    shrinkage: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Part of the mean variance that is added to each axis's before whitening."""
    within: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the covariance within the public classes in what is whitened, against the whole one's."""
    options: Options = Field(default_factory=dict)


class PartitionSection(Section):
    """How examples are dealt to devices."""

    kind: Literal["iid", "dirichlet", "shards", "natural"] = "iid"
    clients: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    alpha: Positive = 0.5
    """Concentration of the Dirichlet distribution over devices, for each label (Yurochkin et al. 2019)."""
    shards_per_client: Annotated[int, Field(ge=1)] = 2
    min_examples: Annotated[int, Field(ge=1)] = 2
    """Fewest examples a device may be dealt."""


class ModelSection(Section):
    """The architecture and its public start."""

    name: str = "digits_cnn"
    options: Options = Field(default_factory=dict)
    pretrain_epochs: Annotated[int, Field(ge=0)] = 20
    pretrain_learning_rate: Positive = 0.01
    pretrain_batch_size: Annotated[int, Field(ge=1)] = 32


class QuantizationSection(Section):
    """How the int8 model comes about."""

    training: Literal["qat", "float"] = "qat"
    """``qat``: devices train through fake quantization. ``float``: in float32; the model is quantized afterwards."""
    scales: Literal["power-of-two", "free"] = "power-of-two"
    calibration_examples: Annotated[int, Field(ge=1)] = 512


class DeltaSection(Section):
    """What a device sends."""

    codec: Literal["integer", "float32"] = "integer"
    bits: Annotated[int, Field(ge=2, le=16)] = 8
    error_feedback: bool = False
    range_fraction: Positive = 0.25
    """Without DP: largest representable change of a weight in a round, as a share of its tensor's largest magnitude."""


class StrategySection(Section):
    """The aggregation rule, an entry point of the group fedmesh.strategies."""

    name: str = "fedavg"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the devices asked in a round."""
    quorum: Annotated[int, Field(ge=1)] = 1
    """Fewest updates that make a round."""
    weighting: Literal["uniform", "examples"] = "uniform"
    options: Options = Field(default_factory=dict)


class ClientSection(Section):
    """Local training, by an entry point of the group fedmesh.clients."""

    name: str = "vision"
    local_epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Positive = 0.1
    momentum: Share = 0.0
    batching: Literal["auto", "always", "never"] = "auto"
    """Whether one worker trains several small models at once (torch.func)."""


class PrivacySection(Section):
    """Differential privacy: of single examples or of whole devices, with noise on the device or in the secure sum."""

    enabled: bool = False
    mode: Literal["local", "shared", "client", "central"] = "local"
    """``local``: of examples, each device adds all the noise itself (DP-SGD). ``shared``: of examples, each device adds
    its share of the noise, one clipped gradient a round. ``client``: of devices, likewise. ``central``: of devices, the
    server adds the noise and is trusted: to compare."""
    epsilon: Positive = 8.0
    """Budget of a device over the whole run."""
    delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5
    clip: Positive = 1.0
    """Largest L2 norm of an example's gradient; of a device's update in the modes client and central."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Poisson sampling rate of a step: a public constant."""
    steps: Annotated[int, Field(ge=1)] = 4
    """Steps of a round: a public constant."""
    expected_batch: Positive = 32.0
    """The denominator of a step's mean gradient: a public constant, never a device's own count."""
    ring_bits: Annotated[int, Field(ge=8, le=48)] = 20
    """Noise in the sum: width of what a device sends for each weight."""
    dropouts: Annotated[float, Field(ge=0, le=1 / 3)] = 0.1
    """Noise in the sum: share of a session's devices that may be lost before its sum is refused. It costs noise."""
    colluders: Annotated[float, Field(ge=0, le=1 / 3)] = 0.05
    """Noise in the sum: share of a session's devices that may be in league with the server, and add no noise."""
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Modes client and central: share of updates that the clip should leave alone; it then moves after every round."""
    clip_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    """How fast it moves."""


class FailuresSection(Section):
    """What goes wrong on purpose."""

    dropout: Share = 0.0
    """Probability that a device asked in a round drops out of it, at a step drawn at random."""
    straggler: Share = 0.0
    """Probability that a device answers late, at a step drawn at random."""
    straggler_delay_s: Annotated[float, Field(ge=0)] = 1.0
    deadline_s: Positive | None = None
    """A step of a round does not wait longer, in (simulated) seconds."""


class SecureAggregationSection(Section):
    """What was summed is all that is seen: updates leave their devices masked, and only sums of them are unmasked."""

    enabled: bool = True
    group_size: Annotated[int, Field(ge=SMALLEST_COHORT, le=1024)] = 128
    """Most devices in one session. A larger cohort is dealt into groups at random, whose sums are added;
    none falls below four (5 to 7 devices by 4 are one group)."""
    weight_cap: Annotated[int, Field(ge=1, le=1_000_000)] = 255
    """With strategy.weighting = "examples" no device weighs more. Its bits are sent with every weight of the model."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Sessions begun for one round, as long as nobody has signed who is in the sum."""
    overlap: bool = True
    """Whether the keys of the next round are exchanged on the way, on this round's messages."""


class SweepSection(Section):
    """Settings of one part of ``fedmesh privacy sweep``, which a run by itself does not look at."""

    mode: Literal["none", "local", "shared", "client", "central"]
    epsilon: Positive | None = None
    """The smallest budget that they are for, up to the next table's of this mode; without it, for all of the mode."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, over the scenario's."""


class Scenario(Section):
    """A federation."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    data: DataSection = DataSection()
    features: FeaturesSection = FeaturesSection()
    partition: PartitionSection = PartitionSection()
    model: ModelSection = ModelSection()
    quantization: QuantizationSection = QuantizationSection()
    delta: DeltaSection = DeltaSection()
    strategy: StrategySection = StrategySection()
    client: ClientSection = ClientSection()
    privacy: PrivacySection = PrivacySection()
    failures: FailuresSection = FailuresSection()
    secure_aggregation: SecureAggregationSection = SecureAggregationSection()
    sweep: Annotated[tuple[SweepSection, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Refuses combinations that would fail, or break a promise, only in a later round."""
        if self.privacy.enabled and self.delta.error_feedback:
            raise ValueError(
                "delta.error_feedback carries what one round clipped into the next and so past the DP clip: "
                "turn it off, or privacy.enabled off"
            )
        if self.privacy.enabled and self.strategy.weighting == "examples":
            raise ValueError(
                "strategy.weighting = 'examples' makes a device's weight a function of its data, which DP does not "
                "cover: use 'uniform'"
            )
        self._check_noise_in_the_sum()
        secure = self.secure_aggregation
        if secure.enabled and self.strategy.weighting == "examples" and secure.weight_cap == 1:
            raise ValueError(
                "strategy.weighting = 'examples' with secure_aggregation.weight_cap = 1 weights all devices alike: "
                "raise the cap, or use 'uniform'"
            )
        asked = self.asked_of(self.partition.clients)
        if self.strategy.quorum > asked:
            raise ValueError(
                f"strategy.quorum is {self.strategy.quorum}, but only {asked} of {self.partition.clients} devices are "
                "asked in a round: lower the quorum or raise strategy.fraction"
            )
        if self.secure_aggregation.enabled and self.delta.codec == "float32":
            raise ValueError(
                "secure aggregation adds integers, and delta.codec is 'float32': use 'integer', or turn "
                "secure_aggregation.enabled off"
            )
        if (too_few := self.too_few_for_a_sum(self.partition.clients)) is not None:
            raise ValueError(too_few)
        if self.sweep:
            from fedmesh.federation.overrides import check_tables

            check_tables(self)
        return self

    def _check_noise_in_the_sum(self) -> None:
        privacy = self.privacy
        if not privacy.enabled:
            return
        if privacy.clip_quantile is not None and privacy.mode in {"local", "shared"}:
            raise ValueError(
                "privacy.clip_quantile follows the norms of whole updates, in the modes client and central: leave it "
                "out"
            )
        if privacy.mode == "local":
            return
        if not self.secure_aggregation.enabled:
            raise ValueError(
                f"privacy.mode = '{privacy.mode}' protects what a secure sum shows, and secure_aggregation.enabled is "
                "off: turn it on, or use privacy.mode = 'local'"
            )
        if privacy.mode == "shared" and self.client.momentum > 0:
            raise ValueError(
                "privacy.mode = 'shared' takes one gradient a round, and client.momentum is of several: set it to 0"
            )

    def asked_of(self, devices: int) -> int:
        """How many of `devices` devices are asked in a round."""
        return max(1, round(self.strategy.fraction * devices))

    def too_few_for_a_sum(self, devices: int) -> str | None:
        """What is wrong with a federation of `devices` devices under secure aggregation; None if nothing is."""
        asked = self.asked_of(devices)
        if not self.secure_aggregation.enabled or asked >= SMALLEST_COHORT:
            return None
        return (
            f"secure aggregation is among at least {SMALLEST_COHORT}, but only {asked} of {devices} "
            "devices are asked in a round: raise partition.clients or strategy.fraction, or turn "
            "secure_aggregation.enabled off"
        )

    @classmethod
    def parse(cls, tables: Mapping[str, Any], *, source: str) -> Self:
        """A scenario from TOML tables.

        Raises:
            ConfigError: naming every key that is unknown, of a wrong type or out of range.
        """
        return parsed(cls, tables, source=source)

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """The scenario in a TOML file, with dotted `overrides` (``{"failures.dropout": 0.3}``) put over it.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or says something that is not a scenario.
        """
        tables = read_tables(path)
        for dotted, value in (overrides or {}).items():
            _put(tables, dotted, value)
        return cls.parse(tables, source=str(path))

    def overridden(self, overrides: Mapping[str, Any], *, source: str) -> Self:
        """This scenario with dotted `overrides` put over it; raises as `parse`."""
        tables = self.model_dump(mode="json")
        for dotted, value in overrides.items():
            _put(tables, dotted, value)
        return self.parse(tables, source=source)


def _put(tables: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    table = tables
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {dotted}: {name!r} is a value, not a table")
    table[last] = value
