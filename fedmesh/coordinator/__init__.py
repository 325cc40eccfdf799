"""The round loop on the server's side: stages, journals, control, resume.

Importing this package imports neither Flower nor SQLAlchemy; a name does so when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.coordinator.checkpoint import Checkpoint, RoundJournal
    from fedmesh.coordinator.control import Control, Controls, LocalControl, RunState, Wish
    from fedmesh.coordinator.coordinator import Coordinator, Evaluate, RunResult, ScriptFactory
    from fedmesh.coordinator.journal import Journal
    from fedmesh.coordinator.plain import StrategyRound
    from fedmesh.coordinator.records import RoundRecord, SessionRecord, StageRecord
    from fedmesh.coordinator.round import Round
    from fedmesh.coordinator.runstore import RunInfo, RunStore
    from fedmesh.coordinator.runurl import DEFAULT_URL, journal_url
    from fedmesh.coordinator.secure import SecureAggregation
    from fedmesh.coordinator.secure_settings import SecureSettings
    from fedmesh.coordinator.settings import RoundSettings
    from fedmesh.coordinator.stage import Outcome, Script, Stage
    from fedmesh.coordinator.storedcontrol import StoredControl

__all__ = [
    "DEFAULT_URL",
    "Checkpoint",
    "Control",
    "Controls",
    "Coordinator",
    "Evaluate",
    "Journal",
    "LocalControl",
    "Outcome",
    "Round",
    "RoundJournal",
    "RoundRecord",
    "RoundSettings",
    "RunInfo",
    "RunResult",
    "RunState",
    "RunStore",
    "Script",
    "ScriptFactory",
    "SecureAggregation",
    "SecureSettings",
    "SessionRecord",
    "Stage",
    "StageRecord",
    "StoredControl",
    "StrategyRound",
    "Wish",
    "journal_url",
]

_HOME = {
    "DEFAULT_URL": "runurl",
    "Checkpoint": "checkpoint",
    "Control": "control",
    "Controls": "control",
    "Coordinator": "coordinator",
    "Evaluate": "coordinator",
    "Journal": "journal",
    "LocalControl": "control",
    "Outcome": "stage",
    "Round": "round",
    "RoundJournal": "checkpoint",
    "RoundRecord": "records",
    "RoundSettings": "settings",
    "RunInfo": "runstore",
    "RunResult": "coordinator",
    "RunState": "control",
    "RunStore": "runstore",
    "Script": "stage",
    "ScriptFactory": "coordinator",
    "SecureAggregation": "secure",
    "SecureSettings": "secure_settings",
    "SessionRecord": "records",
    "Stage": "stage",
    "StageRecord": "records",
    "StoredControl": "storedcontrol",
    "StrategyRound": "plain",
    "Wish": "control",
    "journal_url": "runurl",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
