"""The engine with real processes: the same figures whatever the workers do, and nothing left behind."""

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import training
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, PeerError
from fedmesh.flower import Fleet, InlineFleet
from fedmesh.flower.identity import FIRST_NODE_ID
from fedmesh.simulation.engine import ClientSpec, ImportedApp, WorkerFleet
from fedmesh.simulation.shared import SharedExamples
from fedmesh.simulation.worker import imported_app
from fedmesh.simulation.zygote import Borrowed, Zygote, preload_of
from fedmesh_clients import vision

SIZES = (11, 3, 8, 30, 4, 1, 7)
SUPPORT = Path(__file__).parent.parent / "support"


def shared() -> SharedExamples:
    return SharedExamples.pack([training.examples(device, size) for device, size in enumerate(SIZES)])


def train(fleet: Fleet, rounds: int = 2) -> dict[tuple[int, int], bytes]:
    """(Round, node) -> packet, of rounds in which every node is asked."""
    packets = {}
    for number in range(1, rounds + 1):
        for node_id in fleet.node_ids:
            fleet.submit(training.train_message(node_id, training.start(), number=number))
        while replies := fleet.collect(60.0):
            for reply in replies:
                packets[number, reply.metadata.src_node_id] = training.packet_of(reply)
    assert len(packets) == rounds * len(fleet.node_ids)
    return packets


def forked(task: Task, workers: int, ledgers: Path | None = None) -> WorkerFleet:
    app = vision.build(task, shared().source(), homes=SimulatedHomes(ledgers))
    return WorkerFleet(app, len(SIZES), workers=workers)


def gone(pid: int, within_s: float = 120.0) -> bool:
    """Whether no process of this id is there, or will be within the time; one that was killed needs a moment."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "task",
    [
        training.task(batching="never"),
        training.task(batching="always"),
        training.int8_task(error_feedback=True, batching="never"),
        training.int8_task(dp=training.DP),
    ],
    ids=["one by one", "cohorts", "error feedback", "private"],
)
def test_the_packets_do_not_depend_on_the_number_of_workers(task: Task, tmp_path: Path) -> None:
    outcomes = []
    for workers in (1, 2, 3):
        ledgers = tmp_path / str(workers)
        ledgers.mkdir()
        with forked(task, workers, ledgers) as fleet:
            outcomes.append((train(fleet), fleet.states()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert bool(outcomes[0][1]) == task.error_feedback


def test_workers_of_a_zygote_compute_what_one_process_computes() -> None:
    data, task = shared(), training.task(batching="never")
    zygote = Zygote(preload_of("vision", private=False))
    with WorkerFleet(ClientSpec("vision", task, data), len(SIZES), workers=2, launcher=zygote) as fleet:
        packets, pids = train(fleet), fleet.pids
        assert len(set(pids)) == 2
    inline = InlineFleet(vision.build(task, shared().source(), homes=SimulatedHomes()), len(SIZES))
    assert train(inline) == packets
    assert all(map(gone, pids))


def test_a_borrowed_zygote_serves_one_fleet_after_another_and_the_workers_of_each_end_with_it() -> None:
    zygote = Zygote(preload_of("vision", private=False))
    busy = SharedExamples.pack([training.examples(device, 2000) for device in range(2)])
    endless = ClientSpec("vision", training.task(local_epochs=1000, batching="never"), busy)
    try:
        with WorkerFleet(endless, 2, workers=2, launcher=Borrowed(zygote)) as fleet:
            for node_id in fleet.node_ids:
                fleet.submit(training.train_message(node_id, training.start()))
            assert fleet.collect(0.5) == []
            pids = fleet.pids
        assert all(map(gone, pids))
        spec = ClientSpec("vision", training.task(batching="never"), shared())
        with WorkerFleet(spec, len(SIZES), workers=2, launcher=Borrowed(zygote)) as fleet:
            assert train(fleet)
            assert set(fleet.pids).isdisjoint(pids)
    finally:
        zygote.close()


def test_a_zygote_that_no_worker_was_asked_of_ends_without_its_imports() -> None:
    zygote = Zygote(preload_of("vision", private=True))
    zygote.close()
    assert zygote._process.returncode == -signal.SIGKILL


@pytest.fixture
def deadly(tmp_path: Path) -> tuple[ClientApp, Path]:
    """An app that kills its process for partition 1 as often as the file says, and counts its visits."""
    app, fuse = ClientApp(), tmp_path / "fuse"

    @app.train()
    def train(message: Message, context: Context) -> Message:
        # Only the one device reads the fuse: another would find it empty while this one writes.
        if context.node_config["partition-id"] == 1 and (left := int(fuse.read_text())) > 0:
            fuse.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return Message(message.content, reply_to=message)

    return app, fuse


def ask_all(fleet: Fleet) -> dict[int, Message]:
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, np.arange(4, dtype=np.float32)))
    found: dict[int, Message] = {}
    while replies := fleet.collect(30.0):
        found.update({reply.metadata.src_node_id: reply for reply in replies})
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_its_device_asked_again(deadly: tuple[ClientApp, Path], workers: int) -> None:
    app, fuse = deadly
    fuse.write_text("1")
    with WorkerFleet(app, 4, workers=workers) as fleet:
        before = set(fleet.pids)
        replies = ask_all(fleet)
        assert not any(reply.has_error() for reply in replies.values())
        assert len(replies) == 4
        (dead,) = before - set(fleet.pids)
        assert gone(dead)
        assert len(fleet.pids) == workers


def test_a_device_that_kills_two_workers_fails_alone_and_says_why(deadly: tuple[ClientApp, Path]) -> None:
    app, fuse = deadly
    fuse.write_text("99")
    with WorkerFleet(app, 4, workers=2) as fleet:
        replies = ask_all(fleet)
        assert len(replies) == 4
        failed = {node: reply.error.reason for node, reply in replies.items() if reply.has_error()}
        assert list(failed) == [FIRST_NODE_ID + 1]
        assert "killed by signal 9" in failed[FIRST_NODE_ID + 1]
        fuse.write_text("0")
        assert not any(reply.has_error() for reply in ask_all(fleet).values())


def test_a_worker_killed_from_outside_changes_no_packet() -> None:
    task = training.task(batching="never")
    with forked(task, 2) as fleet:
        want = train(fleet)
    with forked(task, 2) as fleet:
        for node_id in fleet.node_ids:
            fleet.submit(training.train_message(node_id, training.start(), number=1))
        replies = fleet.collect(30.0)
        os.kill(fleet.pids[0], signal.SIGKILL)
        while more := fleet.collect(30.0):
            replies += more
    assert {(1, r.metadata.src_node_id): training.packet_of(r) for r in replies}.items() <= want.items()
    assert len(replies) == len(SIZES)


def test_an_app_that_cannot_be_built_is_the_operators_news() -> None:
    spec = ClientSpec("vision", training.task(model="nothing_like_it"), shared())
    with (
        WorkerFleet(spec, len(SIZES), workers=1) as fleet,
        pytest.raises(ConfigError, match=r"cannot be built in a worker: ConfigError: 'nothing_like_it' is not one of"),
    ):
        train(fleet)


def test_an_app_is_found_by_module_and_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    with WorkerFleet(ImportedApp("importable_app:app"), 2, workers=1) as fleet:
        assert {node: reply.content["metrics"]["doubled"] for node, reply in ask_all(fleet).items()} == {
            2: 12.0,
            3: 12.0,
        }
    for reference in ("importable_app:nothing", "no_such_module:app", "importable_app", "importable_app:NUMBER"):
        with pytest.raises(ConfigError, match=reference):
            imported_app(reference)


def test_impossible_fleets_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        WorkerFleet(ClientApp(), 0)
    with pytest.raises(ConfigError, match="0 workers"):
        WorkerFleet(ClientApp(), 1, workers=0)
    with WorkerFleet(ClientApp(), 1, workers=1) as fleet, pytest.raises(ConfigError, match="states of nodes"):
        fleet.restore({99: b"x"})
    with pytest.raises(PeerError, match="closed"):
        fleet.submit(training.train_message(FIRST_NODE_ID, training.start()))


def test_closing_ends_workers_that_are_busy_and_frees_what_they_shared() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        time.sleep(600)
        return Message(RecordDict(), reply_to=message)

    gc.collect()  # what earlier tests left behind must not go in between
    files = len(list(Path("/proc/self/fd").iterdir()))
    fleet = WorkerFleet(app, 4, workers=2)
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, np.zeros(10_000, np.float32)))
    start = time.monotonic()
    assert fleet.collect(0.3) == []
    pids = fleet.pids
    fleet.close()
    fleet.close()
    assert time.monotonic() - start < 300
    assert all(map(gone, pids))
    assert len(list(Path("/proc/self/fd").iterdir())) == files


SCRIPT = """
import json, sys, time
import training
from fedmesh.simulation.engine import ClientSpec, WorkerFleet
from fedmesh.simulation.shared import SharedExamples
data = SharedExamples.pack([training.examples(device, 2000) for device in range(4)])
task = training.task(local_epochs=1000, batching="never")
with WorkerFleet(ClientSpec("vision", task, data), 4, workers=2) as fleet:
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, training.start()))
    fleet.collect(0.5)
    print(json.dumps([*fleet.pids, fleet._launcher._process.pid]), flush=True)
    fleet.collect(None)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
def test_no_process_and_no_shared_memory_outlives_the_engine(ending: signal.Signals) -> None:
    shared_names = set(Path("/dev/shm").iterdir())
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    engine = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert engine.stdout is not None
    pids = json.loads(engine.stdout.readline())
    assert len(pids) == 3
    os.killpg(engine.pid, ending)  # as a terminal does: the whole group hears of a Ctrl-C
    _, errors = engine.communicate(timeout=20)
    assert engine.returncode == -ending
    assert all(map(gone, pids))
    assert set(Path("/dev/shm").iterdir()) <= shared_names
    # Only the engine speaks: its KeyboardInterrupt, and nothing of the workers.
    assert errors.count("Traceback") == (1 if ending == signal.SIGINT else 0)
