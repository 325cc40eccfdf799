"""Nodes that have a run with secure aggregation as it is, of inputs of three numbers: no model is trained."""

import hashlib

import numpy as np
from mesh_runs import FakeLearning, RunNodes
from round_secagg import RealSessions, RealSumming
from round_sessions import Disk

from fedmesh.mesh.rounds import Outcome
from fedmesh.secagg import Policy, Roster


class NodeSumming(RealSumming):
    """Its model is a blob, of the one before and the sum; the state stays."""

    def __init__(self, aggregator, blobs, state, **how):
        super().__init__(aggregator, blobs, **how)
        self.state = state

    @property
    def outcome(self):
        result = self.aggregator.result
        if result is None:
            return None
        model = self.blobs.put(self.aggregator.header.model_hash + result.total.astype("<i8").tobytes())
        return Outcome(result.survivors, result.context, model, self.state, result.signatures)


class NodeSums(RealSessions):
    def __init__(self, *args, state, **how):
        super().__init__(*args, **how)
        self.state = state

    def begin(self, before):
        assert before.model in self.blobs

    def vector(self, attempt):
        return np.array([hashlib.sha256(self.name.encode()).digest()[0], attempt, -5], np.int64)

    def summing(self, aggregator, **how):
        return NodeSumming(aggregator, self.blobs, self.state, **how)


class SumLearning(FakeLearning):
    """Attributes: roster: of the run's members."""

    def sessions(self, charter, *, scenario, blobs, folder, answered, changed):
        self.roster = Roster(charter.members)
        party = self.identity, self.roster, Policy(successors=frozenset(charter.members))
        return NodeSums(
            self.name, None, Disk(100), blobs, None, folder=folder, party=party, state=charter.state
        )  # fmt: skip


class SumNodes(RunNodes):
    learning_of = SumLearning
