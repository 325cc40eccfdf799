"""Flower as the programming model: grids, nodes and fleets of our own under unmodified Flower apps."""

from fedmesh.flower.desk import Credential, Credentials
from fedmesh.flower.envelope import Envelope, fold, payload_bytes, unfold
from fedmesh.flower.fleet import Fleet, InlineFleet
from fedmesh.flower.grid import FleetGrid, Traffic
from fedmesh.flower.identity import SERVER_NODE_ID, acting_as, adopt, node_id_of, partition_of
from fedmesh.flower.logs import quiet_flower
from fedmesh.flower.node import Node
from fedmesh.flower.run import run_simulation
from fedmesh.flower.secure_client import SecureClient, Turn, discreet
from fedmesh.flower.secure_mod import SecAggMod
from fedmesh.flower.terms import Terms

__all__ = [
    "SERVER_NODE_ID",
    "Credential",
    "Credentials",
    "Envelope",
    "Fleet",
    "FleetGrid",
    "InlineFleet",
    "Node",
    "SecAggMod",
    "SecureClient",
    "Terms",
    "Traffic",
    "Turn",
    "acting_as",
    "adopt",
    "discreet",
    "fold",
    "node_id_of",
    "partition_of",
    "payload_bytes",
    "quiet_flower",
    "run_simulation",
    "unfold",
]
