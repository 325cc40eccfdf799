"""Devices or a coordinator lost at any step: what is summed is right, and nobody signs twice for one round."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Message
from secure_federation import Federation, fedavg, loses, step_of
from secure_rounds import WEIGHTS, plain, run, stages

from fedmesh.coordinator import Coordinator, Journal, LocalControl, Wish
from fedmesh.coordinator.groups import deal
from fedmesh.errors import RoundError
from fedmesh.events import Event, StageStarted
from fedmesh.flower import FleetGrid, InlineFleet, node_id_of, partition_of
from fedmesh.flower.secure import STEPS
from fedmesh.testing import ManualClock


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("overlap", [False, True])
def test_devices_lost_at_any_step_leave_the_right_sum(tmp_path: Path, step: str, overlap: bool) -> None:
    """Of 7 devices two may go. Whoever has sent its masked input before it went is in the sum."""
    result = run(Federation(tmp_path, 7, trouble=loses((1, step), (4, step))), 1, overlap=overlap, attempts=1)
    record = result.records[1]
    gone = () if step in {"sign", "unmask"} else (1, 4)
    assert result.arrays == plain(7, without=gone)
    assert (record.clients, record.survivors) == (7, 7 - len(gone))
    assert [device for device, _ in record.failures] == [1, 4]
    assert [(s.devices, s.survivors, s.aborted) for s in record.sessions] == [(7, record.survivors, None)]


def test_devices_lost_one_at_each_step(tmp_path: Path) -> None:
    lost = [(index, step) for index, step in enumerate(STEPS)]
    result = run(Federation(tmp_path, 16, trouble=loses(*lost)), attempts=1)
    assert result.arrays == plain(16, without=(0, 1, 2))
    assert result.records[1].survivors == 13
    assert [(stage.devices, stage.replies) for stage in result.records[1].stages] == [
        (16, 15), (15, 14), (14, 13), (13, 12), (12, 11),
    ]  # fmt: skip


@pytest.mark.parametrize(("step", "begun"), [("advertise", 1), ("share", 2)])
def test_losses_before_the_training_begin_another_session_that_can_lose_more(
    tmp_path: Path, step: str, begun: int
) -> None:
    """Seven lose two and could lose no more; five of their own lose the next one."""
    lost = [(1, step), (4, step), (6, "unmask")]
    result = run(Federation(tmp_path, 7, trouble=loses(*lost)))
    record = result.records[1]
    assert result.arrays == plain(7, without=(1, 4))
    assert [(s.devices, s.survivors) for s in record.sessions] == [(7, 0), (5, 5)]
    assert str(record.sessions[0].aborted).startswith("threshold: 2 of 7 devices were lost before the training")
    assert stages(result, 1) == [*STEPS[:begun], *STEPS]


def test_few_losses_before_the_training_do_not(tmp_path: Path) -> None:
    result = run(Federation(tmp_path, 13, trouble=loses((3, "share"))))
    assert [(s.devices, s.survivors) for s in result.records[1].sessions] == [(13, 12)]


@pytest.mark.parametrize("step", ["advertise", "share", "train"])
def test_too_many_losses_begin_another_attempt_among_the_others(tmp_path: Path, step: str) -> None:
    """Four of twelve may go, five do: seven are left for a session of their own."""
    lost = [(device, step) for device in (0, 2, 5, 7, 11)]
    result = run(Federation(tmp_path, 12, trouble=loses(*lost)))
    record = result.records[1]
    assert result.arrays == plain(12, without=(0, 2, 5, 7, 11))
    assert record.survivors == 7
    aborted, good = record.sessions
    assert (aborted.attempt, aborted.devices, aborted.survivors) == (1, 12, 0)
    assert str(aborted.aborted).startswith("threshold: ")
    assert (good.attempt, good.devices, good.survivors, good.aborted) == (2, 7, 7, None)
    assert stages(result, 1) == [*STEPS[: STEPS.index(step) + 1], *STEPS]


def test_attempts_are_limited(tmp_path: Path) -> None:
    waves = {1: (0, 1, 2, 3, 4, 5), 2: (6, 7, 8, 9), 3: (10, 11, 12)}
    attempts = Counter[int]()

    def trouble(message: Message, partition: int) -> None:
        if step_of(message) == "advertise":
            attempts[partition] += 1
            if partition in waves.get(attempts[partition], ()):
                raise ConnectionError("lost")

    result = run(Federation(tmp_path, 17, trouble=trouble), attempts=4)
    assert [session.devices for session in result.records[1].sessions] == [17, 11, 7, 4]
    attempts.clear()
    again = Federation(tmp_path / "again", 17, trouble=trouble)
    again.folder.mkdir()
    with pytest.raises(RoundError, match="all 1 rounds failed") as caught:
        run(again, attempts=2)
    assert "7 of 11" in str(caught.value)


@pytest.mark.parametrize("step", ["sign", "unmask"])
def test_once_signatures_were_asked_for_there_is_no_second_attempt(tmp_path: Path, step: str) -> None:
    lost = [(device, step) for device in range(5)]
    journal = Journal()
    result = run(Federation(tmp_path, 12, trouble=loses(*lost, rounds=[1])), 2, journal=journal)
    record = result.records[1]
    assert str(record.failed).startswith("7 of 12 devices are left")
    assert record.survivors == 0
    assert [s.aborted is not None for s in record.sessions] == [True]
    assert result.records[2].failed is None
    assert result.arrays != WEIGHTS


def first_group(devices: int) -> list[int]:
    """The first group of round 1, as `Federation.settings` has it dealt."""
    group, *_ = deal([node_id_of(device) for device in range(devices)], 4, key=(5, 1, 0))
    return [partition_of(node) for node in group]


@pytest.mark.parametrize("step", STEPS)
def test_a_group_that_aborts_is_left_out(tmp_path: Path, step: str) -> None:
    group = first_group(12)
    trouble = loses(*[(device, step) for device in group[:2]])
    record = run(Federation(tmp_path, 12, trouble=trouble), group_size=4).records[1]
    assert record.failed is None
    assert [(s.survivors, s.aborted is None) for s in record.sessions] == [(0, False), (4, True), (4, True)]
    assert record.survivors == 8
    assert len(record.failures) == 2


def test_the_sum_is_that_of_the_groups_that_did_not_abort(tmp_path: Path) -> None:
    group = first_group(12)
    result = run(Federation(tmp_path, 12, trouble=loses((group[0], "sign"), (group[1], "unmask"))), group_size=4)
    assert result.arrays == plain(12, without=group)


def test_a_group_that_aborts_below_the_quorum_begins_the_round_again(tmp_path: Path) -> None:
    group = first_group(12)
    trouble = loses(*[(device, "share") for device in group[:2]])
    result = run(Federation(tmp_path, 12, trouble=trouble), group_size=4, quorum=9)
    record = result.records[1]
    assert [s.attempt for s in record.sessions] == [1, 1, 1, 2, 2]
    assert [s.devices for s in record.sessions[3:]] == [5, 5]
    assert record.survivors == 10
    assert stages(result, 1) == ["advertise", "share", *STEPS]
    assert result.arrays == plain(12, without=group[:2])


@pytest.mark.parametrize("devices", [1, 3])
def test_fewer_than_four_devices_are_not_summed(tmp_path: Path, devices: int) -> None:
    with pytest.raises(RoundError, match=f"{devices} devices are left"):
        run(Federation(tmp_path, devices))


def test_the_quorum_is_held(tmp_path: Path) -> None:
    lost = loses((0, "train"), (1, "train"))
    journal = Journal()
    with pytest.raises(RoundError, match="all 1 rounds failed"):
        run(Federation(tmp_path, 8, trouble=lost), quorum=7, journal=journal)
    sessions = journal.records()[1].sessions
    assert [s.devices for s in sessions] == [8]  # six are left, another attempt could not succeed
    assert "6 of 8" in str(sessions[0].aborted) or "7" in str(sessions[0].aborted)


def test_the_strategys_quorum_is_the_default(tmp_path: Path) -> None:
    lost = loses((0, "train"), (1, "train"))
    with pytest.raises(RoundError):
        run(Federation(tmp_path, 8, trouble=lost), strategy=fedavg(quorum=7))


def test_silence_is_a_loss_at_the_deadline(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)

    clock = ManualClock()

    class Deaf(InlineFleet):
        def submit(self, message: Message) -> None:
            if message.metadata.dst_node_id != 3 or step_of(message) != "train":
                super().submit(message)

        def collect(self, timeout_s: float | None) -> list[Message]:
            found = super().collect(timeout_s)
            clock.advance(0.0 if found else 0.1)  # there is nothing to do but to wait
            return found

    strategy, journal = fedavg(), Journal()
    grid = FleetGrid(Deaf(federation.app(), 5), device_of=partition_of)
    secure = federation.secured(strategy, rounds=1)
    script = lambda number, arrays: secure.script(number, arrays, grid)  # noqa: E731
    coordinator = Coordinator(
        strategy, grid, journal, device_of=partition_of, deadline_s=0.5, script=script, clock=clock
    )
    result = coordinator.run(WEIGHTS, 1)
    assert result.records[1].failures == ((1, "no answer by the deadline"),)
    assert result.arrays == plain(5, without=(1,))


def cut_at(number: int, step: str, partition: int) -> Callable[[Message, int], None]:
    """Trouble that ends the process there."""

    def cut(message: Message, at: int) -> None:
        if (message.content["config"]["server-round"], step_of(message), at) == (number, step, partition):
            raise KeyboardInterrupt

    return cut


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Also one whose round was begun before: the devices know its attempt, so it has a higher one now."""
    whole = plain(6, 4)
    path, stores = tmp_path / "journal", tmp_path / "stores"
    stores.mkdir()

    with Journal(path) as journal, pytest.raises(KeyboardInterrupt):
        run(Federation(stores, 6, trouble=cut_at(3, "train", 4)), 4, journal=journal)
    with Journal(path) as journal:
        assert [record.round for record in journal.records()] == [0, 1, 2]
        result = run(Federation(stores, 6), 4, journal=journal)
    assert result.arrays == whole
    assert stages(result, 3) == list(STEPS)  # what was prepared has gone with the process
    assert result.records[3].sessions[0].attempt == 2


def test_a_round_that_was_signed_before_the_crash_is_lost_and_the_next_is_not(tmp_path: Path) -> None:
    path, stores = tmp_path / "journal", tmp_path / "stores"
    stores.mkdir()

    with Journal(path) as journal, pytest.raises(KeyboardInterrupt):
        run(Federation(stores, 5, trouble=cut_at(2, "unmask", 3)), 3, journal=journal)
    with Journal(path) as journal:
        result = run(Federation(stores, 5), 3, journal=journal)
    assert [record.failed is None for record in result.records] == [True, True, False, True]
    assert all("round 2 is over" in reason for _, reason in result.records[2].failures)


@pytest.mark.parametrize(("step", "again"), [("share", True), ("train", True), ("sign", True), ("unmask", False)])
def test_a_round_that_was_stopped_at_once_is_tried_again_unless_somebody_has_signed(
    tmp_path: Path, step: str, again: bool
) -> None:
    """What an operator gives up is as what a crash cuts off: no device signs two sets of survivors of one round.

    The stop comes before anybody was sent a message of `step`.
    """
    federation, path, control = Federation(tmp_path, 5), tmp_path / "journal", LocalControl()

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and (event.round, event.stage) == (2, step):
            control.ask(Wish.STOP_NOW)

    with Journal(path) as journal:
        result = run(federation, 3, journal=journal, events=stop, control=control, overlap=False)
    assert (result.stopped, len(result.records)) == (True, 2)
    with Journal(path) as journal:
        result = run(federation, 3, journal=journal, overlap=False)
    assert [record.failed is None for record in result.records] == [True, True, again, True]
    if again:
        assert result.arrays == plain(5, 3)
        assert result.records[2].sessions[0].attempt == 2
