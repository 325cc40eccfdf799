"""Secure aggregation: a sum of vectors of which nobody learns the parts (Bonawitz et al. 2017, active adversaries).

`Participant` runs on a device, `Aggregator` anywhere, and neither does any I/O beyond the participant's small store of
what it has signed. docs/secure-aggregation.md says what is protected, from whom, and what is not.

Importing this package imports no numpy; a name does so when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.errors import SecAggError
from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.secagg.aggregator import Aggregator
    from fedmesh.secagg.handover import Handover
    from fedmesh.secagg.header import SessionHeader
    from fedmesh.secagg.identity import Identity, Roster
    from fedmesh.secagg.messages import decode_masked
    from fedmesh.secagg.metrics import MetricCodec
    from fedmesh.secagg.participant import Participant
    from fedmesh.secagg.policy import Policy
    from fedmesh.secagg.result import SumResult
    from fedmesh.secagg.ring import Ring

__all__ = [
    "Aggregator",
    "Handover",
    "Identity",
    "MetricCodec",
    "Participant",
    "Policy",
    "Ring",
    "Roster",
    "SecAggError",
    "SessionHeader",
    "SumResult",
    "decode_masked",
]

_HOME = {
    "Aggregator": "aggregator",
    "Handover": "handover",
    "Identity": "identity",
    "MetricCodec": "metrics",
    "Participant": "participant",
    "Policy": "policy",
    "Ring": "ring",
    "Roster": "identity",
    "SessionHeader": "header",
    "SumResult": "result",
    "decode_masked": "messages",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
