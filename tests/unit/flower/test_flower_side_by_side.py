"""Several runs in one process: who is who, message by message."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from secure_federation import Federation, fedavg

from fedmesh.coordinator import Coordinator, RoundJournal, RunResult, RunStore
from fedmesh.flower import FleetGrid, InlineFleet, acting_as, adopt, quiet_flower
from fedmesh.flower.arrays import vector_record

START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
PATIENCE_S = 240


def test_a_thread_acts_for_itself() -> None:
    adopt(7)
    inside, leave = threading.Event(), threading.Event()
    seen = list[tuple[int, int]]()

    def other() -> None:
        with acting_as(8, 20):
            inside.set()
            assert leave.wait(PATIENCE_S)
            seen.append((TaskIdentity.run_id, TaskIdentity.node_id))
        seen.append((TaskIdentity.run_id, TaskIdentity.node_id))

    thread = threading.Thread(target=other)
    with acting_as(9, 30):
        thread.start()
        assert inside.wait(PATIENCE_S)
        assert (TaskIdentity.run_id, TaskIdentity.node_id) == (9, 30)
        with acting_as(10, 40):
            assert TaskIdentity.run_id == 10
        assert TaskIdentity.run_id == 9
    adopt(11)  # in the middle of the other's block
    leave.set()
    thread.join(PATIENCE_S)
    assert seen == [(8, 20), (11, 1)]
    assert (TaskIdentity.run_id, TaskIdentity.node_id) == (11, 1)


class Meeting:
    """Two client apps that each wait, in the middle of every message, until the other is in the middle of one too."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.strange = list[Any]()

    def app(self, run_id: int, inner: Any) -> Any:
        def answer(message: Message, context: Context) -> Message:
            self.barrier.wait(PATIENCE_S)
            fresh = Message(RecordDict(), 3, "query").metadata  # not a reply: Flower asks who this process is
            if {fresh.run_id, message.metadata.run_id, context.run_id} != {
                run_id
            } or fresh.src_node_id != context.node_id:
                self.strange.append((run_id, fresh.run_id, message.metadata.run_id, context.run_id))
            return inner(message, context)

        return answer


def plain(meeting: Meeting, journal: RoundJournal) -> RunResult:
    fleet = InlineFleet(meeting.app(journal.run_id, delta_app()), 5)
    return Coordinator(fedavg(), FleetGrid(fleet), journal).run(START, 3)


def secure(meeting: Meeting, journal: RoundJournal, folder: Path) -> RunResult:
    federation = Federation(folder, 5)
    strategy = fedavg()
    aggregation = federation.secured(strategy, rounds=3, overlap=False, attempts_of=journal.next_attempt)
    grid = FleetGrid(InlineFleet(meeting.app(journal.run_id, federation.app()), 5))
    script = lambda number, arrays: aggregation.script(number, arrays, grid)  # noqa: E731
    return Coordinator(strategy, grid, journal, script=script).run(START, 3)


class Alone(Meeting):
    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(1)


@pytest.mark.parametrize("kind", ["plain", "secure"])
def test_two_runs_side_by_side_come_to_what_each_comes_to_alone(kind: str, tmp_path: Path) -> None:
    store = RunStore(f"sqlite:///{tmp_path / 'runs.sqlite3'}")

    def go(meeting: Meeting, name: str) -> RunResult:
        (tmp_path / name).mkdir()
        with store.journal(store.create(name, {}, 3)) as journal:
            return plain(meeting, journal) if kind == "plain" else secure(meeting, journal, tmp_path / name)

    with quiet_flower():
        alone = go(Alone(), "alone")
        meeting = Meeting()
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda name: go(meeting, name), ["a", "b"]))
    assert meeting.strange == []
    for result in results:
        assert [record.survivors for record in result.records] == [0, 5, 5, 5]
        assert result.arrays == alone.arrays
