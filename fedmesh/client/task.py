"""What a device must know to take part: public, plain data, the same in simulation and deployment."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from fedmesh.client.task_fields import check_fields
from fedmesh.errors import ConfigError
from fedmesh.privacy.settings import Budget, DpSettings, Mode

if TYPE_CHECKING:
    from fedmesh.privacy.summed import SumSettings
    from fedmesh.quantization.head import Head

__all__ = ["Task"]

_NESTED = frozenset({"dp", "head", "summed"})


@dataclass(frozen=True, slots=True)
class Task:
    """A training task.

    Attributes:
        name: names the task in ledgers.
        model: entry point of the group ``fedmesh.models``; `model_options` are its keyword arguments.
        input_shape: shape of one example, float32; classes: number of logits.
        ranges: activation quantizer -> (scale, zero point), frozen public constants; empty if `training` is ``float``.
        training: ``qat`` or ``float``; scales: ``power-of-two`` or ``free``.
        codec: ``integer`` (b-bit stochastic rounding) or ``float32``.
        dp: privacy of examples by noise on the device; summed: by noise in the secure sum; one of them, or none.
        secure_aggregation: a device answers inside the secure sum, and refuses to answer outside it.
        weight_cap: under secure aggregation no device weighs more than this; 1 if the weighting is ``uniform``.
        group_size: most devices that a session of secure aggregation may have.
        session: what sessions of secure aggregation are called, by which devices remember their rounds; None: as the
            task. A second run of a task counts its rounds anew, so each run of real devices has a name of its own.
        head: the model's last layer, of a task that lite devices take part in; None: there are none.
        keyed_noise_seed: None on a device (noise from the operating system); a simulation's seed makes it repeatable.
            A device takes a task `as_deployed`.
    """

    name: str
    model: str
    input_shape: tuple[int, ...]
    classes: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    training: Literal["qat", "float"] = "qat"
    scales: Literal["power-of-two", "free"] = "power-of-two"
    codec: Literal["integer", "float32"] = "integer"
    bits: int = 8
    error_feedback: bool = False
    weighting: Literal["uniform", "examples"] = "uniform"
    local_epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 0.1
    momentum: float = 0.0
    batching: Literal["auto", "always", "never"] = "auto"
    dp: DpSettings | None = None
    summed: "SumSettings | None" = None
    keyed_noise_seed: int | None = None
    secure_aggregation: bool = False
    weight_cap: int = 1
    group_size: int = 128
    session: str | None = None
    head: "Head | None" = None

    @property
    def session_name(self) -> str:
        """What headers of secure aggregation name."""
        return self.session or self.name

    def of_run(self, run: int) -> Self:
        """The task as one run of real devices has it; `run`: its id."""
        return replace(self, session=f"{self.name}/{run:x}")

    @property
    def budget(self) -> Budget | None:
        """What a device may spend on this task; None: it is not private."""
        if self.summed is not None:
            return Budget(self.summed.level, self.summed.epsilon, self.summed.delta)
        return None if self.dp is None else Budget("example", self.dp.epsilon, self.dp.delta)

    @property
    def mode(self) -> Mode | None:
        """Who adds the noise, and whom it protects; None: the task is not private."""
        if self.summed is not None:
            return self.summed.mode
        return None if self.dp is None else "local"

    @property
    def privacy(self) -> dict[str, Any] | None:
        """The public facts about its noise that a session of secure aggregation names, as plain data."""
        settings = self.summed or self.dp
        return None if settings is None else asdict(settings)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the metrics that travel inside the secure sum: none without one, and none under DP."""
        return ("examples", "loss") if self.secure_aggregation and self.budget is None else ()

    def as_deployed(self) -> Self:
        """The task without a seed: whoever sends a task would otherwise choose the noise, and could subtract it."""
        return replace(self, keyed_noise_seed=None)

    def to_plain(self) -> dict[str, Any]:
        """Nested dicts of numbers, strings and lists: what CBOR, JSON and TOML can carry."""
        plain = asdict(self)
        plain["ranges"] = {name: list(pair) for name, pair in self.ranges.items()}
        plain["input_shape"] = list(self.input_shape)
        if self.head is not None:
            plain["head"] |= {"names": list(self.head.names), "shapes": [list(shape) for shape in self.head.shapes]}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_plain`.

        Raises:
            ConfigError: keys are missing or unknown, or values are of other types, or out of range.
        """
        from fedmesh.privacy.summed import SumSettings
        from fedmesh.quantization.head import Head

        try:
            values = dict(plain)
            check_fields(cls, {key: value for key, value in values.items() if key not in _NESTED})
            dp = values.pop("dp", None)
            if dp is not None:
                check_fields(DpSettings, dp)
            values["dp"] = None if dp is None else DpSettings(**dp)
            summed = values.pop("summed", None)
            if summed is not None:
                check_fields(SumSettings, {key: value for key, value in summed.items() if key != "quantile"})
            values["summed"] = None if summed is None else SumSettings.from_plain(summed)
            head = values.pop("head", None)
            values["head"] = None if head is None else Head.from_plain(head)
            values["ranges"] = {name: (float(s), int(z)) for name, (s, z) in values.get("ranges", {}).items()}
            values["input_shape"] = tuple(values["input_shape"])
            return cls(**values)
        except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise ConfigError(f"this is not a training task: {error}") from error
