"""Gossip averaging: every member has a model of its own, and averages it with ever other members; nobody aggregates.

Sans-IO. In each step the members are dealt into groups of at least four, a group sums its models under secure
aggregation, and each goes on from the average (Moshpit SGD, Ryabinin et al. 2021, with secure sums). Averaging in
pairs, as D-PSGD does (Lian et al. 2017), would show each neighbour the other's model. docs/mesh-gossip.md has what is
guaranteed, what it costs in privacy and what was measured.
"""

from fedmesh.mesh.gossip.accounting import group_sizes, shared_settings
from fedmesh.mesh.gossip.course import Begin, Course, Effect, Ended, Say
from fedmesh.mesh.gossip.dealing import contraction, deal, group_of, takeover
from fedmesh.mesh.gossip.grid import Codes, Grid, split
from fedmesh.mesh.gossip.member import Member, Outcome, Send
from fedmesh.mesh.gossip.messages import Trains
from fedmesh.mesh.gossip.mixing import Mixing, PlainMixing, Prepared, SharedMixing
from fedmesh.mesh.gossip.rules import PlainRule, Rule, SharedRule
from fedmesh.mesh.gossip.run import Run

__all__ = [
    "Begin",
    "Codes",
    "Course",
    "Effect",
    "Ended",
    "Grid",
    "Member",
    "Mixing",
    "Outcome",
    "PlainMixing",
    "PlainRule",
    "Prepared",
    "Rule",
    "Run",
    "Say",
    "Send",
    "SharedMixing",
    "SharedRule",
    "Trains",
    "contraction",
    "deal",
    "group_of",
    "group_sizes",
    "shared_settings",
    "split",
    "takeover",
]
