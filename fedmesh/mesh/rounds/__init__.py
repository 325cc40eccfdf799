"""Rounds without a server: a charter starts them, a quorum of its members certifies each result, anybody coordinates.

Sans-IO. `Member` is one member of a run; what it does not do itself is secure aggregation (`Sessions`), membership and
the carrying of bytes. docs/mesh.md tells how a round goes, what is guaranteed and what is not.
"""

from fedmesh.mesh.rounds.chain import Chain, Fork, read_fork
from fedmesh.mesh.rounds.charter import Charter, Schedule, counted_out, open_charter, sign_charter
from fedmesh.mesh.rounds.effects import Certified, Effect, Forked, Send, Want
from fedmesh.mesh.rounds.keys import Keyring, Keys
from fedmesh.mesh.rounds.member import Member
from fedmesh.mesh.rounds.memory import DurableMemory, Memory
from fedmesh.mesh.rounds.quorum import colluders_for, quorum_for
from fedmesh.mesh.rounds.result import Certificate, Result
from fedmesh.mesh.rounds.sessions import Outcome, Sessions, Summing

__all__ = [
    "Certificate",
    "Certified",
    "Chain",
    "Charter",
    "DurableMemory",
    "Effect",
    "Fork",
    "Forked",
    "Keyring",
    "Keys",
    "Member",
    "Memory",
    "Outcome",
    "Result",
    "Schedule",
    "Send",
    "Sessions",
    "Summing",
    "Want",
    "colluders_for",
    "counted_out",
    "open_charter",
    "quorum_for",
    "read_fork",
    "sign_charter",
]
