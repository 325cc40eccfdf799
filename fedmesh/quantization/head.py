"""The last layer of a model, where it is linear: what a device has to know that trains nothing else; numpy alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.types import Float32, Layout

__all__ = ["Head"]


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer in a model's flat vector, and the grid of its input.

    ``spread(v)`` is zero outside of the head, and ``take(spread(v)) == v`` for all v of float32 [size].

    Attributes:
        names, shapes: of all arrays of the model, in wire order.
        weight: name of the layer's weight, [classes, width]. bias: of its bias, [classes]; None if it has none.
        grid: name of its input's activation range. signed: whether that grid reaches below zero.

    Raises:
        ConfigError: the arrays are not those of a model with such a layer.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    weight: str
    bias: str | None
    grid: str
    signed: bool

    def __post_init__(self) -> None:
        shapes = dict(zip(self.names, self.shapes, strict=False))
        sound = len(self.names) == len(self.shapes) == len(shapes) and all(min(s, default=1) > 0 for s in self.shapes)
        weight = shapes.get(self.weight, ())
        if not sound or len(weight) != 2 or (self.bias is not None and shapes.get(self.bias) != weight[:1]):
            raise ConfigError(
                f"the model's head is said to be {self.weight!r} with the bias {self.bias!r}; among its arrays that is "
                f"no linear layer: {', '.join(f'{name}{list(shape)}' for name, shape in shapes.items())}"
            )

    @property
    def layout(self) -> Layout:
        """Of the whole model."""
        return Layout(self.names, self.shapes)

    @property
    def classes(self) -> int:
        """Outputs of the layer."""
        return self.shapes[self.names.index(self.weight)][0]

    @property
    def width(self) -> int:
        """Inputs of the layer."""
        return self.shapes[self.names.index(self.weight)][1]

    @property
    def size(self) -> int:
        """Elements of the head's own flat vector: its weight, row by row, and then its bias."""
        return self.classes * (self.width + (self.bias is not None))

    def take(self, vector: Float32) -> Float32:
        """The head's part of `vector`, float32 [P]: float32 [size], a copy."""
        return np.concatenate([vector[part] for part in self._parts()])

    def spread(self, own: Float32) -> Float32:
        """The vector float32 [P] that is `own`, float32 [size], in the head and zero everywhere else."""
        whole = np.zeros(self.layout.size, np.float32)
        start = 0
        for part in self._parts():
            length = part.stop - part.start
            whole[part] = own[start : start + length]
            start += length
        return whole

    def _parts(self) -> tuple[slice, ...]:
        found = []
        for name in (self.weight, self.bias):
            if name is not None:
                index = self.names.index(name)
                start = sum(math.prod(shape) for shape in self.shapes[:index])
                found.append(slice(start, start + math.prod(self.shapes[index])))
        return tuple(found)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The head from what ``dataclasses.asdict`` made of one, lists in the place of tuples.

        Raises:
            KeyError, TypeError, ValueError: it is not that. ConfigError: as the class.
        """
        values = dict(plain)
        names = tuple(str(name) for name in values.pop("names"))
        shapes = tuple(tuple(int(size) for size in shape) for shape in values.pop("shapes"))
        return cls(names=names, shapes=shapes, **values)
