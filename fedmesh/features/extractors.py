"""What an extractor is, how one is found by name, and the simplest one.

A factory takes `input_shape` (of one example) and its own keyword options, and returns a function from examples
float32 [N, *input_shape] to features float32 [N, D]. Each example's features depend on that example alone, to the
last bit: not on its neighbours in a batch, nor on their number.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.plugins import FEATURES
from fedmesh.plugins import load as load_plugin
from fedmesh.types import Float32

__all__ = ["Extract", "extractor", "pixels"]

Extract = Callable[[Float32], Float32]


def extractor(name: str, input_shape: tuple[int, ...], options: Mapping[str, Any]) -> Extract:
    """The extractor `name` for examples of `input_shape`.

    Raises:
        ConfigError: there is none of that name, or it does not take its options or examples of this shape.
    """
    factory = load_plugin(FEATURES, name)
    try:
        made: Extract = factory(input_shape, **options)
    except (TypeError, ValueError) as error:  # the call itself; what an extractor refuses is a ConfigError
        raise ConfigError(
            f"the features {name!r} cannot be made with options {dict(options)}: {error}; correct features.options"
        ) from error
    return made


def pixels(input_shape: tuple[int, ...]) -> Extract:
    """The values of an example as they are, in one row."""
    size = int(np.prod(input_shape))

    def extract(x: Float32) -> Float32:
        return x.reshape(len(x), size)

    return extract
