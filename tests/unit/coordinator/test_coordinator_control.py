"""Pause, resume and stop, late joiners and over-selection, as the coordinator obeys them."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import Context, Message
from secure_federation import fedavg

from fedmesh.coordinator import (
    Controls,
    Coordinator,
    Journal,
    LocalControl,
    RoundSettings,
    RunResult,
    RunState,
    RunStore,
    StoredControl,
    Wish,
)
from fedmesh.coordinator.selection import Selection
from fedmesh.errors import ConfigError, QuorumError, RoundError
from fedmesh.events import (
    DeviceReplied,
    Event,
    RoundFinished,
    RoundStarted,
    RunPaused,
    RunResumed,
    RunStopped,
    WaitingForDevices,
)
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector_record
from fedmesh.testing import ManualClock

START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))


class Told(LocalControl):
    """A control that remembers what was reported."""

    def __init__(self) -> None:
        super().__init__()
        self.reports = list[tuple[str, str]]()

    def report(self, state: RunState, reason: str = "") -> None:
        self.reports.append((state.value, reason))

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.reports]


class Fleet(InlineFleet):
    """Of whose nodes only some are there."""

    def __init__(self, nodes: int, app: Any = None) -> None:
        super().__init__(app or delta_app(), nodes)
        self.there = nodes

    @property
    def node_ids(self) -> Sequence[int]:
        return list(super().node_ids)[: self.there]


class Story(list[Event]):
    """Events, of which some make something happen."""

    def __init__(self) -> None:
        super().__init__()
        self.on: dict[type[Event], Callable[[Any], None]] = {}

    def __call__(self, event: Event) -> None:
        self.append(event)
        self.on.get(type(event), lambda event: None)(event)

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self if isinstance(event, kinds)]


class ActingClock(ManualClock):
    """Whose every sleep is a chance for something to happen."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0
        self.act: Callable[[int], None] = lambda sleeps: None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sleeps += 1
        assert self.sleeps < 10_000, "a busy loop"
        self.act(self.sleeps)


def run(fleet: InlineFleet, rounds: int, story: Story | None = None, **options: Any) -> RunResult:
    journal = options.pop("journal", None) or Journal()
    events = Story() if story is None else story
    grid = FleetGrid(fleet, device_of=partition_of, events=events)
    return Coordinator(fedavg(), grid, journal, events=events, device_of=partition_of, **options).run(START, rounds)


def test_a_stop_ends_the_run_behind_the_round_under_way() -> None:
    control, story = Told(), Story()
    story.on[DeviceReplied] = lambda event: control.ask(Wish.STOP) if event.round == 2 else None
    result = run(Fleet(4), 9, story, control=control)
    assert result.stopped
    assert [(record.round, record.survivors) for record in result.records] == [(0, 0), (1, 4), (2, 4)]
    assert story[-1] == RunStopped(2, abandoned=False)
    assert control.states == ["running", "stopped"]


def test_a_stop_at_once_gives_up_the_round_which_has_then_not_happened(tmp_path: Path) -> None:
    control, story = Told(), Story()
    replies = list[Event]()

    def stop(event: DeviceReplied) -> None:
        if event.round == 2:
            replies.append(event)
            control.ask(Wish.STOP_NOW)

    story.on[DeviceReplied] = stop
    path = tmp_path / "journal"
    with Journal(path) as journal:
        result = run(Fleet(4), 3, story, control=control, journal=journal)
    assert result.stopped
    assert len(replies) == 1
    assert [record.round for record in result.records] == [0, 1]
    assert story[-1] == RunStopped(1, abandoned=True)
    with Journal(path) as journal:
        resumed = run(Fleet(4), 3, journal=journal)
    assert not resumed.stopped
    assert resumed.arrays == run(Fleet(4), 3).arrays


def test_a_pause_lets_the_round_end_and_holds_the_next_until_it_is_over() -> None:
    control, story, clock = Told(), Story(), ActingClock()
    story.on[DeviceReplied] = lambda event: control.ask(Wish.PAUSE) if event.round == 1 else None
    clock.act = lambda sleeps: control.ask(Wish.RUN) if sleeps == 20 else None
    result = run(Fleet(4), 2, story, control=control, clock=clock)
    kinds = [type(event) for event in story.of(RoundStarted, RoundFinished, RunPaused, RunResumed)]
    assert kinds == [RoundStarted, RoundFinished, RunPaused, RunResumed, RoundStarted, RoundFinished]
    assert (RunPaused(1) in story, RunResumed(2) in story) == (True, True)
    assert len(result.records) == 3
    assert control.states == ["running", "paused", "running", "finished"]
    assert clock.sleeps == 20


def test_a_paused_run_can_be_stopped() -> None:
    control, story, clock = Told(), Story(), ActingClock()
    control.ask(Wish.PAUSE)
    clock.act = lambda sleeps: control.ask(Wish.STOP)
    result = run(Fleet(4), 2, story, control=control, clock=clock)
    assert (result.stopped, len(result.records)) == (True, 1)
    assert story == [RunPaused(0), RunStopped(0, abandoned=False)]
    assert control.states == ["running", "paused", "stopped"]


def test_a_run_that_fails_says_so_and_one_that_is_interrupted_does_not() -> None:
    def broken(message: Message, context: Context) -> Message:
        raise ValueError("no data")

    control = Told()
    with pytest.raises(RoundError):
        run(Fleet(4, broken), 5, control=control, max_failed_rounds=1)
    assert control.states == ["running", "failed"]
    assert "no data" in control.reports[-1][1]

    def interrupted(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    control = Told()
    with pytest.raises(KeyboardInterrupt):
        run(Fleet(4, interrupted), 5, control=control)
    assert control.states == ["running"]


def test_of_several_wishes_the_furthest_counts() -> None:
    one, other = Told(), Told()
    both = Controls(one, other)
    assert both.state() is Wish.RUN
    for first, second, wanted in (
        (Wish.PAUSE, Wish.RUN, Wish.PAUSE),
        (Wish.PAUSE, Wish.STOP, Wish.STOP),
        (Wish.STOP_NOW, Wish.STOP, Wish.STOP_NOW),
    ):
        one.ask(first)
        other.ask(second)
        assert both.state() is wanted
    both.report(RunState.FAILED, "why")
    assert one.reports == other.reports == [("failed", "why")]
    assert Controls().state() is Wish.RUN


def test_a_run_in_the_store_is_stopped_from_outside_and_stays_stopped(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.sqlite3'}"
    store = RunStore(url)
    run_id = store.create("small", {}, 6)
    story, asked = Story(), threading.Event()

    def stop(event: RoundFinished) -> None:
        if event.round == 2:
            outside = threading.Thread(target=lambda: (RunStore(url).ask(run_id, Wish.STOP), asked.set()))
            outside.start()
            assert asked.wait(120)

    story.on[RoundFinished] = stop
    for expected in (3, 3):  # a service that is started again finds it stopped
        with store.journal(run_id) as journal:
            result = run(Fleet(4), 6, story, journal=journal, control=StoredControl(store, journal, poll_s=0.0))
        assert (result.stopped, len(result.records)) == (True, expected)
        assert store.info(run_id).condition == "stopped"
    store.ask(run_id, Wish.RUN)
    with store.journal(run_id) as journal:
        result = run(Fleet(4), 6, journal=journal, control=StoredControl(store, journal))
    assert (result.stopped, store.info(run_id).condition) == (False, "finished")
    assert result.arrays == run(Fleet(4), 6).arrays


def test_a_round_waits_for_devices_and_late_joiners_come_in_by_themselves() -> None:
    story, clock, fleet = Story(), ActingClock(), Fleet(6)
    fleet.there = 1

    def arrive(sleeps: int) -> None:
        fleet.there = {4: 2, 8: 3}.get(sleeps, fleet.there)

    clock.act = arrive
    story.on[RoundFinished] = lambda event: setattr(fleet, "there", 6)
    settings = RoundSettings(min_devices=3, quorum=2, wait_s=60)
    result = run(fleet, 2, story, settings=settings, clock=clock)
    assert story.of(WaitingForDevices) == [WaitingForDevices(1, 1, 3), WaitingForDevices(1, 2, 3)]
    assert [(record.clients, record.survivors) for record in result.records[1:]] == [(3, 3), (6, 6)]
    assert clock.sleeps == 8
    assert result.records[1].seconds == 0  # the wait is not the round's


def test_devices_that_do_not_come_cost_the_round() -> None:
    story, clock, fleet, control = Story(), ActingClock(), Fleet(6), Told()
    fleet.there = 2
    story.on[RoundFinished] = lambda event: setattr(fleet, "there", 6)
    result = run(fleet, 2, story, settings=RoundSettings(min_devices=3, wait_s=5), clock=clock, control=control)
    assert "2 devices were there after 5 s, round 1 wants 3" in str(result.records[1].failed)
    assert result.records[2].survivors == 6
    assert clock.now() == pytest.approx(5)
    fleet.there = 2
    with pytest.raises(QuorumError, match="raise wait_s"):
        run(fleet, 2, settings=RoundSettings(min_devices=3, wait_s=0), clock=clock, max_failed_rounds=1)


@pytest.mark.parametrize("wish", [Wish.STOP, Wish.STOP_NOW])
def test_a_round_that_waits_for_devices_can_be_stopped_and_paused(wish: Wish) -> None:
    story, clock, fleet, control = Story(), ActingClock(), Fleet(6), Told()
    fleet.there = 0
    wishes = {3: Wish.PAUSE, 100: Wish.RUN, 110: wish}
    clock.act = lambda sleeps: control.ask(wishes[sleeps]) if sleeps in wishes else None
    settings = RoundSettings(wait_s=10)  # shorter than the pause, which does not count
    result = run(fleet, 2, story, settings=settings, clock=clock, control=control)
    assert (result.stopped, len(result.records)) == (True, 1)
    assert control.states == ["running", "paused", "running", "stopped"]


def test_more_are_asked_than_wanted_and_the_first_count() -> None:
    seen = list[tuple[int, int]]()

    def app(message: Message, context: Context) -> Message:
        seen.append((int(message.content["config"]["server-round"]), int(context.node_config["partition-id"])))
        return delta_app()(message, context)

    settings = RoundSettings(wanted=4, over_selection=1.5, quorum=4, min_devices=4)
    result = run(Fleet(10, app), 6, settings=settings, seed=1)
    for record in result.records[1:]:
        assert (record.clients, record.survivors, len(record.failures)) == (6, 4, 2)
        assert {reason for _, reason in record.failures} == {"enough others answered before"}
    assert len({partition for _, partition in seen}) == 10  # everybody's turn comes
    assert run(Fleet(10), 6, settings=settings, seed=1).arrays == result.arrays
    assert run(Fleet(10), 6, settings=settings, seed=2).arrays != result.arrays


def test_fewer_than_wanted_are_all_asked_and_all_waited_for() -> None:
    settings = RoundSettings(wanted=4, over_selection=1.5)
    result = run(Fleet(3), 1, settings=settings)
    assert (result.records[1].clients, result.records[1].survivors) == (3, 3)


def test_the_draw_is_uniform_and_another_each_round() -> None:
    selection = Selection(RoundSettings(wanted=3, over_selection=4 / 3), seed=7)
    nodes = range(100, 110)
    draws = [selection.drawn(number, nodes) for number in range(2000)]
    assert all(draw == sorted(set(draw)) and len(draw) == 4 for draw in draws)
    counts = [sum(node in draw for draw in draws) for node in nodes]
    assert all(abs(count - 800) < 5 * 22 for count in counts)  # five standard deviations of a binomial
    assert selection.drawn(3, reversed(nodes)) == draws[3]
    assert Selection(RoundSettings(wanted=3)).drawn(1, [5, 4]) == [4, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wanted": 0}, "wanted is 0"),
        ({"wanted": 4, "over_selection": 0.9}, "over_selection is 0.9"),
        ({"over_selection": 1.2}, "a multiple of wanted, which is missing"),
        ({"wanted": 4, "over_selection": float("nan")}, "over_selection is nan"),
        ({"deadline_s": 0.0}, "deadline_s is 0"),
        ({"train_deadline_s": -1.0}, "train_deadline_s"),
        ({"quorum": 0}, "quorum is 0"),
        ({"wait_s": -1.0}, "wait_s"),
        ({"wanted": 4, "quorum": 5, "min_devices": 5}, "quorum is 5, but a round goes on with 4"),
        ({"quorum": 5, "min_devices": 4}, "min_devices is 4, the quorum 5"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RoundSettings(**options)


def test_how_many_are_asked() -> None:
    assert RoundSettings(wanted=10, over_selection=1.1, min_devices=4).asked == 11  # not 12, as floats have it
    assert RoundSettings(wanted=10, over_selection=1.11).asked == 12
    assert RoundSettings().asked is None
    assert [RoundSettings(wanted=10, over_selection=1.5).enough(asked) for asked in (9, 10, 11, 15)] == [
        None,
        None,
        10,
        10,
    ]


def test_settings_under_which_no_secure_sum_can_be_unmasked_are_refused() -> None:
    RoundSettings(wanted=20, over_selection=1.4, min_devices=4).check_secure(group_size=128)
    RoundSettings(min_devices=4).check_secure(group_size=128)
    for options, said in (
        ({"wanted": 20, "over_selection": 1.5, "min_devices": 4}, "20 of a session of 30; 21 are needed"),
        ({"wanted": 3, "min_devices": 4}, "wanted is 3, and a secure sum is of 4"),
        ({"wanted": 20, "min_devices": 3}, "min_devices is 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            RoundSettings(**options).check_secure(group_size=128)
    with pytest.raises(ConfigError, match="wanted is 20, and a secure sum is of 25"):
        RoundSettings(wanted=20, min_devices=25).check_secure(group_size=128, smallest_sum=25)
    for wanted in range(4, 200, 7):  # what is let through can be unmasked in every group
        for tenths in range(10, 20):
            settings = RoundSettings(wanted=wanted, over_selection=tenths / 10, min_devices=4)
            try:
                settings.check_secure(group_size=16)
            except ConfigError:
                assert tenths > 12
