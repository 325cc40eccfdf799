"""The array types that travel: RFC 8746 typed arrays, little endian, wrapped in a row-major shape (tag 40).

Only these types exist on the wire: no objects, no strings, no structures, no dates. They go by numpy's names of them
(``numpy.dtype.str``), so that who reads messages without arrays loads no numpy.
"""

import math

__all__ = ["DTYPES", "MAX_DIMENSIONS", "ROW_MAJOR", "TAGS", "is_carried_shape"]

ROW_MAJOR = 40  # RFC 8746 3.1.1: [dimensions, typed array]
MAX_DIMENSIONS = 16
_MAX_EXTENT = 1 << 48  # numpy refuses shapes beyond 2^63 bytes even when they hold nothing

DTYPES = {  # RFC 8746 2.1
    64: "|u1",
    69: "<u2",
    70: "<u4",
    71: "<u8",
    72: "|i1",
    77: "<i2",
    78: "<i4",
    79: "<i8",
    84: "<f2",
    85: "<f4",
    86: "<f8",
}

TAGS = {dtype: tag for tag, dtype in DTYPES.items()}


def is_carried_shape(shape: tuple[int, ...]) -> bool:
    """Whether a shape can travel: few dimensions, and lengths that no zero among them makes absurd."""
    return len(shape) <= MAX_DIMENSIONS and math.prod(max(length, 1) for length in shape) <= _MAX_EXTENT
