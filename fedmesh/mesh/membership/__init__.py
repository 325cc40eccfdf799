"""Who is here: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018), signed and sans-IO.

Every member holds a full view. It finds members that have crashed within seconds, takes back what it said of one that
was only slow, and grows together again after a partition. It says nothing about rights: these come from certificates
and the roster (docs/mesh.md has what is guaranteed and what is not).
"""

from fedmesh.mesh.membership.incarnations import DurableIncarnations, Incarnations
from fedmesh.mesh.membership.settings import Settings
from fedmesh.mesh.membership.statements import Signer, State
from fedmesh.mesh.membership.swim import Outgoing, Swim
from fedmesh.mesh.membership.table import Member

__all__ = ["DurableIncarnations", "Incarnations", "Member", "Outgoing", "Settings", "Signer", "State", "Swim"]
