"""The round loop on the server's side: stages, journal, resume."""

from fedmesh.coordinator.coordinator import Coordinator, Evaluate, RunResult, ScriptFactory
from fedmesh.coordinator.journal import Checkpoint, Journal
from fedmesh.coordinator.plain import StrategyRound
from fedmesh.coordinator.records import RoundRecord, SessionRecord, StageRecord
from fedmesh.coordinator.round import Round
from fedmesh.coordinator.secure import SecureAggregation, SecureSettings
from fedmesh.coordinator.stage import Outcome, Script, Stage

__all__ = [
    "Checkpoint",
    "Coordinator",
    "Evaluate",
    "Journal",
    "Outcome",
    "Round",
    "RoundRecord",
    "RunResult",
    "Script",
    "ScriptFactory",
    "SecureAggregation",
    "SecureSettings",
    "SessionRecord",
    "Stage",
    "StageRecord",
    "StrategyRound",
]
