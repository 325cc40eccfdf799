"""What goes into a sum: a device's own check that its input fits the session's ring, so that no sum wraps around.

Every device holds its values to floor((2^(k-1) - 1) / (n W)). Then a sum of n of them, each with a weight up to W,
stays inside the ring of k bits whatever the others do within the rules.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg.header import SessionHeader

__all__ = ["check_input", "input_hashes"]


def check_input(
    header: SessionHeader, vector: NDArray[np.int64], weight: int, *, modular: bool = False
) -> NDArray[np.unsignedinteger[Any]]:
    """The product weight * vector, then the weight: [header.length + 1] of the ring's type, not reduced yet.

    Args:
        header: of the session; checked by the policy before.
        vector: whole numbers [header.length], dense.
        weight: 1 to header.weight_cap.
        modular: the sum may wrap around: values of any size count modulo the ring.

    Raises:
        SecAggError: a value, the length, the type or the weight does not fit the header; nothing of the values is told.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | np.integer) or not 1 <= weight <= header.weight_cap:
        raise SecAggError(f"the weight is not a whole number from 1 to the cap of {header.weight_cap}", code="weight")
    # Of a masked array the hidden elements would pass the bound below unseen, and go into the sum all the same.
    if not isinstance(vector, np.ndarray) or isinstance(vector, np.ma.MaskedArray) or vector.dtype.kind not in "iu":
        got = vector.dtype if type(vector) is np.ndarray else type(vector).__name__
        raise SecAggError(
            f"the input is of {got}; wanted a dense numpy array of whole numbers: quantize it first", code="input"
        )
    if vector.shape != (header.length,):
        raise SecAggError(
            f"the input is of shape {list(vector.shape)}, the session is about [{header.length}]", code="input"
        )
    bound = header.ring.largest_value(len(header.cohort), header.weight_cap)
    if not modular and (int(vector.max()) > bound or int(vector.min()) < -bound):
        raise SecAggError(
            f"the input has values beyond {bound}, which {header.ring_bits} bits do not hold for "
            f"{len(header.cohort)} devices with weights up to {header.weight_cap}",
            code="ring",
        )
    ring = header.ring
    lifted = np.empty(header.length + 1, ring.dtype)
    lifted[:-1] = vector  # congruent modulo the type's width, and so modulo the ring's
    factor = ring.dtype.type(int(weight) & ((1 << ring.bits) - 1))
    lifted[:-1] *= factor
    lifted[-1] = factor
    return lifted


def input_hashes(header: SessionHeader, model_hash: bytes | None, scale_hash: bytes | None) -> tuple[bytes, bytes]:
    """Model and scales that the input belongs to: the header's, or those given where it leaves them open.

    Raises:
        SecAggError: neither says them, or they contradict each other.
    """
    found = []
    for name, announced, given in (
        ("model_hash", header.model_hash, model_hash),
        ("scale_hash", header.scale_hash, scale_hash),
    ):
        if announced is None and given is None:
            raise SecAggError(f"the header leaves {name} open: say it with the input", code="input")
        if announced is not None and given is not None and given != announced:
            raise SecAggError(f"the input belongs to another {name} than the session", code="policy")
        found.append(announced if given is None else given)
    return found[0] or b"", found[1] or b""
