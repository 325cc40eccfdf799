"""Models from neighbour to neighbour: pointers by gossip, chunks rarest first, verified as in a fleet. Sans-IO.

A device asks its neighbours for what its `fedmesh.registry.install.Installer` wants, and gives away what it has
verified while it still fetches the rest. docs/mesh-delivery.md says what is guaranteed, refused and measured.
"""

from fedmesh.mesh.swarm.delivery import Delivery
from fedmesh.mesh.swarm.held import Held
from fedmesh.mesh.swarm.holdings import Holdings, Published
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.mesh.swarm.source import SwarmSource
from fedmesh.mesh.swarm.swarm import Outgoing, Swarm
from fedmesh.mesh.swarm.taking import Found

__all__ = ["Delivery", "Found", "Held", "Holdings", "Outgoing", "Published", "Settings", "Swarm", "SwarmSource"]
