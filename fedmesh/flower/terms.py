"""What a device insists on before it joins a session of secure aggregation, and what it then puts into the sum.

Everything here follows from the device's own task. The server's header is held against it: a session of another task,
round, model layout, length, weight cap or noise, or with less protection than the device's floor, is refused before a
key is made.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.privacy.summed import SumSettings
from fedmesh.secagg import MetricCodec, Policy, SessionHeader
from fedmesh.types import Layout

__all__ = ["Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """One task's terms.

    Attributes:
        task: what its sessions are called.
        layout: of the model's arrays, P elements in all.
        bits: width of a code, 2 to 16.
        weight_cap: largest weight of a device.
        reported: metrics that ride behind the codes.
        privacy: facts about the noise in the device's own codes; None if there is none.
        summed: of a task whose noise is complete in the sum only; its inputs are taken modulo the ring.
        floor: the least that the device accepts of cohort, threshold and sum.
    """

    task: str
    layout: Layout
    bits: int = 8
    weight_cap: int = 1
    reported: tuple[str, ...] = ()
    privacy: Mapping[str, Any] | None = None
    summed: SumSettings | None = None
    floor: Policy = field(default_factory=Policy)

    @property
    def length(self) -> int:
        """Elements of an input: the codes and the digits of the metrics, or those of a private sum."""
        return self.layout.size + self._metrics.length if self.summed is None else self.summed.length

    @property
    def policy(self) -> Policy:
        """The floor, with what the task fixes."""
        floor, summed = self.floor, self.summed
        if summed is not None:  # a smaller sum would carry less noise than was paid for
            floor = dataclasses.replace(
                floor,
                min_survivors=max(floor.min_survivors, summed.smallest_sum),
                modular=True,
            )
        return dataclasses.replace(
            floor,
            value_bits=1 if summed else self.bits,
            max_weight_cap=self.weight_cap,
            max_length=self.length,
            layout_hash=self.layout.digest,
            privacy=self.privacy,
        )

    def check(self, header: SessionHeader) -> None:
        """What the policy does not look at.

        Raises:
            SecAggError: ``policy``: the session is of another task, length or weight cap, or announces noise that this
                device does not add.
        """
        wanted = {"task": self.task, "length": self.length, "weight_cap": self.weight_cap}
        if self.summed is not None:
            wanted["ring_bits"] = self.summed.bits
        for name, value in wanted.items():
            if getattr(header, name) != value:
                raise SecAggError(
                    f"the session has {name} = {getattr(header, name)!r:.80}, this device's task has {value!r}",
                    code="policy",
                )
        if self.privacy is None and header.privacy is not None:
            raise SecAggError("the session announces noise, this device's task has none", code="policy")

    def input(self, codes: NDArray[np.signedinteger[Any]], metrics: Mapping[str, float]) -> NDArray[np.int64]:
        """The codes [P], and behind them the digits of the reported metrics: int64 [length].

        Raises:
            SecAggError: ``input``: a metric is missing, or no number that the sum can carry; or codes carry no noise,
                and the task wants it in every input.
        """
        if self.summed is not None:
            raise SecAggError("this task's inputs carry noise, an update's codes do not: nothing is sent", code="input")
        try:
            digits = self._metrics.encode(metrics)
        except SecAggError:  # its text has the value in it, and an error reply would carry it out of the device
            wanted = ", ".join(self.reported)
            message = f"one of the metrics {wanted} is missing or out of range: nothing is sent in this round"
        else:
            return np.concatenate([codes.astype(np.int64), digits])
        raise SecAggError(message, code="input")

    def weight(self, examples: int) -> int:
        """The weight of a device with so many examples, where the task weights by them: 1 to `weight_cap`."""
        return max(1, min(examples, self.weight_cap))

    @property
    def _metrics(self) -> MetricCodec:
        return MetricCodec(self.reported, self.bits)
