"""``fedmesh runs`` beside a coordinator that runs: pause, resume, stop, and what is begun again and what is not."""

import asyncio
import json

import pytest
from fleet_devices import Home
from fleet_halls import DEVICES, PATIENCE_S, Hall, planned, small, store_of
from postgres import shared_server

from fedmesh.coordinator import RunState, RunStore, Wish
from fedmesh.errors import ConfigError
from fedmesh.events import Notice, RoundFinished, RunPaused, RunResumed, RunStarted, RunStopped, StageStarted
from fedmesh.federation.deployed import describe_run
from fedmesh.fleet.chosen_run import chosen_run, own_folder

PLAIN = {"secure_aggregation__enabled": False}


def play(home, plan, scene=None, **options):
    """A coordinator with its devices; gives the hall, its service and what `scene` gave."""

    async def whole():
        hall = Hall(home, plan, **options)
        async with hall.service() as service:
            for number in range(DEVICES):
                hall.join(number)
            found = None if scene is None else await asyncio.wait_for(scene(hall, service), PATIENCE_S)
            await asyncio.wait_for(hall.serving, PATIENCE_S)
        return hall, service, found

    return asyncio.run(whole())


async def until(holds):
    while not holds():
        await asyncio.sleep(0.02)


def state(home, name="digits"):
    with store_of(home) as store:
        return store.find(name)


def ask(home, wish):
    with store_of(home) as store:
        store.ask(store.find("digits").id, wish)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_run_is_in_the_store_with_the_figures_of_its_result(tmp_path, kind):
    home, plan = Home(tmp_path, DEVICES), planned(small(**PLAIN, rounds=2))
    url = shared_server().database() if kind == "postgresql" else "sqlite:///" + str(tmp_path / "elsewhere.sqlite3")
    plain, given = home.config, {"journal": {"url": url}}
    home.config = lambda **tables: plain(**{**given, **tables})
    _, service, _ = play(home, plan)
    result = json.loads((home.folder / "data/runs/digits/result.json").read_text())
    with RunStore(url, create=False) as store:
        info = store.find("digits")
        told = describe_run(info, store.records(info.id))
    assert (info.state, info.held, info.committed) == (RunState.FINISHED, False, 2)
    assert told.pop("run")["state"] == "finished"
    assert told == result == service.results["digits"]
    hall, again, _ = play(home, plan)
    assert hall.told(RunStarted) == []
    assert again.results["digits"] == result, "a finished run is left alone"


def test_a_pause_an_end_and_a_resume_while_it_runs(tmp_path):
    home, plan = Home(tmp_path, DEVICES), planned(small(**PLAIN), round={"pause_s": 1.5})

    async def scene(hall, service):
        await until(lambda: hall.handed)
        ask(home, Wish.PAUSE)
        hall.go_on()
        await until(lambda: hall.told(RunPaused))
        await until(lambda: state(home).condition == "paused")
        ask(home, Wish.STOP)
        await until(lambda: state(home).condition == "stopped")
        await until(lambda: any("runs resume digits" in event.text for event in hall.told(Notice)))
        assert hall.told(RunResumed) == []
        assert state(home).held, "this coordinator would go on with it"
        ask(home, Wish.RUN)
        await until(lambda: len(hall.told(RunStarted)) >= 2)
        ask(home, Wish.PAUSE)
        await until(lambda: len(hall.told(RunPaused)) >= 2)
        ask(home, Wish.RUN)
        await until(lambda: hall.told(RunResumed))
        await until(lambda: "digits" in service.results)
        service.stop()

    hall, _, _ = play(home, plan, scene, once=False, holds=True)
    assert [event.round for event in hall.told(RoundFinished)] == [1, 2, 3]
    assert state(home).condition == "finished"
    assert hall.told(RunStopped)[0].abandoned is False
    assert all(len(device.ended) == 1 for device in hall.devices.values())


def test_what_an_operator_stopped_stays_stopped_and_what_a_signal_cut_off_goes_on(tmp_path):
    home, plan = Home(tmp_path, DEVICES), planned(small(**PLAIN), round={"pause_s": 1.5})

    async def cut(hall, service):
        await until(lambda: hall.told(StageStarted))
        service.stop()

    hall, _, _ = play(home, plan, cut)
    assert hall.told(RunStopped)[-1].abandoned
    run = state(home)
    assert (run.condition, run.committed) == ("interrupted", 0)

    async def stop_now(hall, service):
        await until(lambda: hall.told(StageStarted))
        ask(home, Wish.STOP_NOW)

    play(home, plan, stop_now)
    assert (state(home).condition, state(home).id) == ("stopped", run.id)
    hall, service, _ = play(home, plan)
    assert hall.told(RoundFinished) == []
    assert service.results == {}
    stopped_behind = state(home).committed
    assert any("fedmesh runs resume digits" in event.text for event in hall.told(Notice))
    ask(home, Wish.RUN)
    hall, service, _ = play(home, plan)
    assert [event.round for event in hall.told(RoundFinished)] == list(range(stopped_behind + 1, 4)) != []
    assert state(home).id == run.id


def test_a_run_that_cannot_begin_has_failed_and_says_why(tmp_path):
    home = Home(tmp_path, DEVICES)
    plan = planned(small(**PLAIN, model__name="mlp", model__options={"layers": "many"}))

    async def scene():
        hall = Hall(home, plan)
        async with hall.service():
            with pytest.raises(ConfigError):
                await asyncio.wait_for(hall.serving, PATIENCE_S)

    asyncio.run(scene())
    run = state(home)
    assert run.state is RunState.FAILED
    assert "model" in run.reason


def begun(store, plan, folder, rounds, state=None):
    """A run of the task in `folder`, with so many committed rounds."""
    from journals import arrays

    from fedmesh.coordinator import RoundRecord

    run = chosen_run(store, plan, folder)
    own_folder(folder, run)
    (folder / "start.cbor").write_text(run.key)
    with store.journal(run.id) as journal:
        for number in range(rounds):
            journal.commit(RoundRecord(number), arrays())
        if state is not None:
            journal.write_run(state=state.value)
    return run


def test_which_run_a_task_goes_on_with(tmp_path):
    store, folder = RunStore(f"sqlite:///{tmp_path}/runs.sqlite3"), tmp_path / "runs" / "digits"
    plan, other = planned(small(**PLAIN)), planned(small(**PLAIN, rounds=9))
    first = begun(store, plan, folder, 2, RunState.RUNNING)
    assert chosen_run(store, plan, folder).id == first.id
    with pytest.raises(ConfigError, match=r"has begun as run.*with another scenario"):
        chosen_run(store, other, folder)
    with store.journal(first.id) as journal:
        journal.write_run(state=RunState.FINISHED.value)
    assert chosen_run(store, plan, folder).id == first.id, "a finished one is found, and left alone by who asks"
    second = begun(store, other, folder, 1, RunState.FAILED)
    assert second.id != first.id
    kept = folder.with_name(f"digits.{first.key[:8]}")
    assert (kept / "start.cbor").read_text() == first.key
    assert chosen_run(store, other, folder).id == second.id, "a failed one is tried again"
    third = chosen_run(store, other, folder, again=True)
    assert third.id not in {first.id, second.id}
    assert store.find("digits").id == third.id
    own_folder(folder, third)
    own_folder(folder, store.info(third.id))
    assert folder.with_name(f"digits.{second.key[:8]}").is_dir()


def test_a_run_that_is_given_up_for_another_is_stopped(tmp_path):
    store, folder = RunStore(f"sqlite:///{tmp_path}/runs.sqlite3"), tmp_path / "digits"
    plan = planned(small(**PLAIN))
    first = begun(store, plan, folder, 2, RunState.RUNNING)
    with store.journal(first.id), pytest.raises(ConfigError, match="another coordinator runs it"):
        chosen_run(store, plan, folder, again=True)
    chosen_run(store, plan, folder, again=True)
    assert store.info(first.id).state is RunState.STOPPED


def test_a_folder_and_a_journal_that_do_not_belong_together_are_refused(tmp_path):
    store, folder = RunStore(f"sqlite:///{tmp_path}/runs.sqlite3"), tmp_path / "digits"
    plan = planned(small(**PLAIN))
    first = begun(store, plan, folder, 2, RunState.RUNNING)
    empty = RunStore(f"sqlite:///{tmp_path}/empty.sqlite3")
    with pytest.raises(ConfigError, match="which is not in the journal"):
        chosen_run(empty, plan, folder)
    with pytest.raises(ConfigError, match="put it back, or begin anew"):
        own_folder(tmp_path / "lost", store.info(first.id))
