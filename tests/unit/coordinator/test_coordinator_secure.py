"""Rounds under secure aggregation, over an in-memory grid: the sum is the plain one, whoever is lost wherever."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from secure_federation import Federation, altered, fedavg, flipped, loses, step_of, training_app

from fedmesh.coordinator import Coordinator, Journal, LocalControl, RunResult, SecureSettings, Wish
from fedmesh.coordinator.groups import deal
from fedmesh.errors import ConfigError, QuorumError, RoundError, SecAggError
from fedmesh.events import Event, StageStarted
from fedmesh.flower import FleetGrid, InlineFleet, node_id_of, partition_of, quiet_flower
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.secure import AHEAD, HELLO, STEPS, hello_answer
from fedmesh.secagg import Identity
from fedmesh.testing import ManualClock

WEIGHTS = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
THREE = ["train", "sign", "unmask"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterable[None]:
    with quiet_flower():
        yield


def run(federation: Federation, rounds: int = 1, **options: Any) -> RunResult:
    """A run; `options` are the coordinator's (journal, events), the strategy's (fraction) or the settings'."""
    coordinator = {k: options.pop(k) for k in ("events", "control") if k in options}
    journal = options.pop("journal", None) or Journal()
    strategy = options.pop("strategy", None) or fedavg(fraction=options.pop("fraction", 1.0))
    options = {"rounds": options.pop("known", rounds), **options}
    secure = federation.secured(strategy, attempts_of=journal.next_attempt, **options)
    fleet = InlineFleet(federation.app(), federation.devices)
    grid = FleetGrid(fleet, device_of=partition_of, events=coordinator.get("events", lambda event: None))
    return Coordinator(
        strategy,
        grid,
        journal,
        device_of=partition_of,
        script=lambda number, arrays: secure.script(number, arrays, grid),
        **coordinator,
    ).run(WEIGHTS, rounds)


def plain(devices: int, rounds: int = 1, *, without: Iterable[int] = (), **options: Any) -> ArrayRecord:
    """The arrays of the same run in the clear, in which some devices fail."""
    inner, app = training_app(delta_app()), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] in without:
            raise ConnectionError("lost")
        return inner(message, context)

    return Coordinator(fedavg(**options), FleetGrid(InlineFleet(app, devices)), Journal()).run(WEIGHTS, rounds).arrays


def stages(result: RunResult, number: int) -> list[str]:
    return [stage.name for stage in result.records[number].stages]


def test_the_arrays_are_bit_for_bit_those_of_the_plain_sum(tmp_path: Path) -> None:
    result = run(Federation(tmp_path, 5), 3)
    assert result.arrays == plain(5, 3)
    assert [record.survivors for record in result.records] == [0, 5, 5, 5]


@pytest.mark.parametrize("cap", [3, 100])
def test_weights_up_to_the_cap_and_metrics_travel_in_the_sum(tmp_path: Path, cap: int) -> None:
    reported = ("examples", "loss")
    result = run(Federation(tmp_path, 5, weight_cap=cap, reported=reported))
    weights = np.minimum(np.arange(1, 6), cap)
    if cap == 100:
        assert result.arrays == plain(5, weighting="examples")
    metrics = result.records[1].metrics
    assert metrics["train.weight"] == weights.sum()
    assert metrics["train.examples"] == pytest.approx(np.average(np.arange(1, 6), weights=weights))
    assert metrics["train.loss"] == pytest.approx(np.average(np.arange(5) / 8, weights=weights))


def test_a_device_sends_nothing_but_its_messages_of_the_sessions(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    run(federation, 2)
    for reply in federation.replies:
        assert set(reply.content) <= {"secagg", AHEAD}
        assert all(list(record) == ["message"] for record in reply.content.array_records.values())


def test_keys_of_the_next_round_are_exchanged_during_this_one(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)
    result = run(federation, 3)
    assert stages(result, 1) == list(STEPS)
    assert stages(result, 2) == stages(result, 3) == THREE
    assert [record.sessions[0].attempt for record in result.records[1:]] == [1, 1, 1]
    ahead = Counter((number, step, following) for number, _, step, following in federation.seen if following)
    assert ahead == {(n, "train", "advertise"): 5 for n in (1, 2)} | {(n, "sign", "share"): 5 for n in (1, 2)}


@pytest.mark.parametrize("options", [{"overlap": False}, {"rounds": None}], ids=["off", "unknown end"])
def test_without_overlap_every_round_has_all_its_steps(tmp_path: Path, options: dict[str, Any]) -> None:
    federation = Federation(tmp_path, 4)
    result = run(federation, 3, known=options.get("rounds", 3), overlap=options.get("overlap", True))
    assert [stages(result, number) for number in (1, 2, 3)] == [list(STEPS)] * 3
    assert not any(following for *_, following in federation.seen)
    assert result.arrays == plain(4, 3)


def test_devices_drawn_for_the_next_round_only_are_asked_for_their_keys_and_do_not_count(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 12)
    result = run(federation, 4, fraction=0.5)
    assert result.arrays == plain(12, 4, fraction=0.5)
    assert [record.clients for record in result.records[1:]] == [6] * 4
    assert stages(result, 4) == THREE
    alone = {(step, following) for _, _, step, following in federation.seen if following and not step}
    assert alone == {("", "advertise"), ("", "share")}
    assert result.records[2].stages[0].devices > 6


@pytest.mark.parametrize(("step", "expected"), [("train", [*STEPS]), ("sign", [*STEPS]), ("unmask", THREE)])
def test_a_loss_on_the_way_costs_the_prepared_session_and_nobodys_place(
    tmp_path: Path, step: str, expected: list[str]
) -> None:
    """Whoever fails in the round before is drawn again, in a session with new keys."""
    result = run(Federation(tmp_path, 5, trouble=loses((2, step), rounds=[1])), 2)
    assert stages(result, 2) == expected
    assert (result.records[2].clients, result.records[2].survivors) == (5, 5)
    assert result.records[2].sessions[0].attempt == (1 if expected == THREE else 2)


def test_a_device_that_cannot_prepare_takes_part_in_this_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)

    def no_ahead(message: Message, partition: int) -> None:
        if partition == 3:
            message.content.pop(AHEAD, None)

    federation.trouble = no_ahead
    result = run(federation, 2)
    assert [record.survivors for record in result.records[1:]] == [5, 5]
    assert stages(result, 2) == list(STEPS)
    assert result.records[2].sessions[0].attempt == 2
    assert result.arrays == plain(5, 2)


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


def test_a_large_cohort_is_dealt_into_groups_whose_sums_are_added(tmp_path: Path) -> None:
    result = run(Federation(tmp_path, 12, weight_cap=12), 2, group_size=4)
    assert result.arrays == plain(12, 2, weighting="examples")
    for record in result.records[1:]:
        assert [(s.group, s.devices, s.survivors) for s in record.sessions] == [(g, 4, 4) for g in range(3)]
        assert record.survivors == 12
    assert stages(result, 2) == THREE


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


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nonsense", [flipped, lambda _: b"", lambda data: data + b"\0", lambda _: b"\xff" * 100])
def test_a_bad_message_costs_its_device_and_not_the_round(tmp_path: Path, step: str, nonsense: Any) -> None:
    federation = Federation(tmp_path, 7)
    answer = federation.app()

    def app(message: Message, context: Context) -> Message:
        lies = context.node_config["partition-id"] == 2 and step_of(message) == step
        reply = answer(message, context)
        return altered(reply, nonsense) if lies else reply

    federation.app = lambda: app  # type: ignore[method-assign]
    result = run(federation)
    record = result.records[1]
    ((device, reason),) = record.failures
    assert device == 2
    assert reason.split(":")[0] in {"signature", "malformed"}
    gone = () if step in {"sign", "unmask"} else (2,)
    assert result.arrays == plain(7, without=gone)


def test_replies_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 7)
    contents = {0: RecordDict(), 1: RecordDict({"secagg": vector_record("other", np.zeros(3, np.uint8))})}

    def trouble(message: Message, partition: int) -> Message | None:
        if partition in contents and step_of(message) == "train":
            return Message(contents[partition], reply_to=message)
        return None

    federation.trouble = trouble
    record = run(federation).records[1]
    assert record.survivors == 5
    assert [device for device, _ in record.failures] == [0, 1]
    assert "no message of its session" in record.failures[0][1]


def test_devices_are_asked_for_their_names_once(tmp_path: Path) -> None:
    events = list[Event]()
    federation = Federation(tmp_path, 5)
    result = run(federation, 2, names=None, events=events.append)
    assert result.arrays == plain(5, 2)
    assert [e.stage for e in events if isinstance(e, StageStarted)] == ["hello", *STEPS, *THREE]
    assert [record.clients for record in result.records[1:]] == [5, 5]


def test_a_device_that_is_not_on_the_roster_takes_no_part(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 6)
    names = {2: "device-0", 3: "device-1", 4: "device-2", 5: "device-3", 6: "stranger", 7: "device-0"}
    result = run(federation, names=lambda nodes: {node: names[node] for node in nodes})
    record = result.records[1]
    assert (record.clients, record.survivors) == (6, 4)
    assert [device for device, _ in record.failures] == [4, 5]
    assert all("not on the roster" in reason or "no device" in reason for _, reason in record.failures)
    assert result.arrays == plain(4)


def test_a_stranger_that_is_asked_for_its_name_is_refused(tmp_path: Path) -> None:
    federation, larger = Federation(tmp_path, 4), Federation(tmp_path, 5)
    federation.app = larger.app  # type: ignore[method-assign]
    federation.devices = 5
    record = run(federation, names=None).records[1]
    assert record.survivors == 4
    assert record.failures == ((4, "it says that it is 'device-4', a device that is not on the roster"),)


def test_a_device_that_gives_anothers_name_fails_at_its_signature(tmp_path: Path) -> None:
    """It keeps the other out of the round, no more."""
    federation = Federation(tmp_path, 6)

    def trouble(message: Message, partition: int) -> Message | None:
        says_so = partition == 0 and step_of(message) == HELLO
        return Message(hello_answer("device-1"), reply_to=message) if says_so else None

    federation.trouble = trouble
    result = run(federation, names=None)
    assert result.arrays == plain(6, without=(0, 1))
    (_, first), (_, second) = result.records[1].failures
    assert "device-0" in first  # its messages are signed by device-0, which is not in this session
    assert "another node has that name" in second


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


def test_a_stages_bytes_and_seconds_are_recorded(tmp_path: Path) -> None:
    record = run(Federation(tmp_path, 5)).records[1]
    assert [stage.name for stage in record.stages] == list(STEPS)
    for stage in record.stages:
        assert stage.devices == stage.replies == 5
        assert stage.bytes_up > 5 * 64
        assert stage.bytes_down > 5 * 64
        assert stage.seconds > 0
    assert sum(stage.bytes_up for stage in record.stages) == pytest.approx(5 * record.bytes_up)
    assert sum(stage.bytes_down for stage in record.stages) == pytest.approx(5 * record.bytes_down)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Also one whose round was begun before: the devices know its attempt, so it has a higher one now."""
    whole = plain(6, 4)
    path, stores = tmp_path / "journal", tmp_path / "stores"
    stores.mkdir()

    def cut(message: Message, partition: int) -> None:
        if (message.content["config"]["server-round"], step_of(message), partition) == (3, "train", 4):
            raise KeyboardInterrupt

    with Journal(path) as journal, pytest.raises(KeyboardInterrupt):
        run(Federation(stores, 6, trouble=cut), 4, journal=journal)
    with Journal(path) as journal:
        assert [record.round for record in journal.records()] == [0, 1, 2]
        result = run(Federation(stores, 6), 4, journal=journal)
    assert result.arrays == whole
    assert stages(result, 3) == list(STEPS)  # what was prepared has gone with the process
    assert result.records[3].sessions[0].attempt == 2


def test_a_round_that_was_signed_before_the_crash_is_lost_and_the_next_is_not(tmp_path: Path) -> None:
    path, stores = tmp_path / "journal", tmp_path / "stores"
    stores.mkdir()

    def cut(message: Message, partition: int) -> None:
        if (message.content["config"]["server-round"], step_of(message), partition) == (2, "unmask", 3):
            raise KeyboardInterrupt

    with Journal(path) as journal, pytest.raises(KeyboardInterrupt):
        run(Federation(stores, 5, trouble=cut), 3, journal=journal)
    with Journal(path) as journal:
        result = run(Federation(stores, 5), 3, journal=journal)
    assert [record.failed is None for record in result.records] == [True, True, False, True]
    assert all("round 2 is over" in reason for _, reason in result.records[2].failures)


def test_a_strategy_that_needs_more_than_the_sum_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    for strategy, words in ((flower.FedAvg(), "needs = 'sum'"), (fedavg(codec="float32"), "integer codec")):
        with pytest.raises(ConfigError, match=words):
            federation.secured(strategy)
    bare = fedavg()
    bare.layout = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no layout"):
        federation.secured(bare)


def test_a_server_that_is_not_on_the_roster_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    federation.identities["aggregator"] = Identity.generate()
    with pytest.raises(ConfigError, match="not on the roster"):
        federation.secured(fedavg())


@pytest.mark.parametrize(
    "setting", [{"group_size": 3}, {"group_size": 1025}, {"attempts": 0}, {"weight_cap": 0}, {"quorum": 0}, {"bits": 1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SecureSettings(**{"task_name": "t", "bits": 8, **setting})


def test_a_strategy_that_sends_different_models_is_refused(tmp_path: Path) -> None:
    class Two(type(fedavg())):  # type: ignore[misc]
        def configure_train(self, *args: Any) -> list[Message]:
            messages = list(super().configure_train(*args))
            content = RecordDict(dict(messages[0].content.items()))
            content["arrays"] = vector_record("model", np.zeros(LAYOUT.size, np.float32))
            messages[0].content = content
            return messages

    strategy = fedavg()
    strategy.__class__ = Two
    with pytest.raises(ConfigError, match="2 different models"):
        run(Federation(tmp_path, 4), strategy=strategy)


def test_a_sum_that_cannot_be_applied_costs_the_round(tmp_path: Path) -> None:
    class Picky(type(fedavg())):  # type: ignore[misc]
        def apply_sum(self, total: Any, weight: int) -> ArrayRecord:
            raise RoundError("the new weights are not finite")

    strategy, journal = fedavg(), Journal()
    strategy.__class__ = Picky
    with pytest.raises(RoundError, match="all 2 rounds"):
        run(Federation(tmp_path, 4), 2, strategy=strategy, journal=journal)
    record = journal.records()[2]
    assert record.failed == "the new weights are not finite"
    assert record.sessions[0].survivors == 4


def test_errors_are_of_the_rounds_branch() -> None:
    assert issubclass(SecAggError, RoundError)
    assert issubclass(QuorumError, RoundError)


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
