"""``fedmesh coordinator run`` as a process at a real broker: a whole run, kill -9 in any stage, and Ctrl-C."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fleet_devices import COORDINATOR, StandIn
from json_events import told_in
from mqtt_fleet import require_mosquitto
from small_runs import ROOT, small_digits

from fedmesh.cli import toml
from fedmesh.client.enrolling import pinned_roster
from fedmesh.client.identities import device_name
from fedmesh.coordinator import RunStore
from fedmesh.federation import datasets
from fedmesh.flower.arrays import vector
from fedmesh.inference import Engine
from fedmesh.registry.repository import Repository
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.mqtt import MqttTransport

require_mosquitto()

DEVICES = 4
SCENARIO = {"privacy__enabled": False, "rounds": 2}


class Site:
    """A mesh on loopback, its coordinator's file, and devices in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scenario = folder, small_digits(**SCENARIO)
        self.held: int | None = None
        self._seen = 0
        self.fleet = LoopbackFleet(folder / "mesh")
        for name in (COORDINATOR, *map(device_name, range(DEVICES))):
            self.fleet.membership(name)
        self.fleet.spread()
        for number in range(DEVICES):
            member = self.fleet.membership(device_name(number))
            (member.folder / "roster.cbor").write_bytes(pinned_roster(member).to_bytes())
        (folder / "small.toml").write_text(toml.dumps(self.scenario.model_dump(mode="json")))
        self.config, self.events = folder / "coordinator.toml", folder / "events.jsonl"
        self.config.write_text(
            f"""
            [identity]
            folder = "mesh/{COORDINATOR}"
            [broker]
            host = "localhost"
            port = {self.fleet.broker.port}
            [data]
            folder = "data"
            [[task]]
            scenario = "small.toml"
            round = {{ deadline_s = 120.0 }}
            """
        )

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fedmesh", "coordinator", "run", str(self.config)]
        command += ["--json-events", str(self.events), *more]
        self._seen = len(self.told())
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def told(self) -> list[dict]:
        return told_in(self.events)

    async def wait_for(self, process: subprocess.Popen[str], wanted: dict, timeout_s: float = 400) -> None:
        """Until an event with these fields is told, since the process began, or behind the one of the last call."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            told = self.told()
            for number in range(self._seen, len(told)):
                if wanted.items() <= told[number].items():
                    self._seen = number + 1
                    return
            assert process.poll() is None, process.stderr.read()
            await asyncio.sleep(0.02)
        raise AssertionError(f"{wanted} was not told: {self.told()[self._seen :]}")

    async def devices(self, pool: ThreadPoolExecutor) -> list[StandIn]:
        examples = datasets.split_as(datasets.load("digits"), self.scenario).devices
        found = []
        for number in range(DEVICES):
            name = device_name(number)
            transport = await MqttTransport.open(self.fleet.options(name))
            member = self.fleet.membership(name)
            found.append(StandIn(member, transport, examples[number], number, DEVICES, pool, trouble=self.trouble))
        return found

    def store(self) -> RunStore:
        return RunStore(f"sqlite:///{self.folder}/data/runs.sqlite3", create=False)

    def trouble(self, name, body):
        """While `held` is set, the first device answers no more than so many of round 1's messages besides train."""
        if self.held is not None and (name, body.round) == (device_name(0), 1) and body.what != "train":
            self.held -= 1
            return "silent" if self.held < 0 else None
        return None

    def committed(self):
        with self.store() as store, store.journal(store.find("digits").id) as journal:
            last = journal.last()
        return last.record, vector(last.arrays, "model", dtype="float32", max_bytes=1 << 24)

    def play(self, scene):
        """`scene` with the devices running around it; gives what they are."""

        async def whole():
            with ThreadPoolExecutor(1) as pool:
                devices = await self.devices(pool)
                serving = [asyncio.ensure_future(device.serve()) for device in devices]
                try:
                    await scene()
                finally:
                    for device in devices:
                        await device.mail.aclose()
                    await asyncio.gather(*serving)
            return devices

        return asyncio.run(whole())


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.fleet.close()


async def ended(process: subprocess.Popen[str], timeout_s: float = 400) -> str:
    """What it wrote on stderr; its devices go on meanwhile."""
    try:
        _, said = await asyncio.to_thread(process.communicate, timeout=timeout_s)
    finally:
        process.kill()
    return said


def whole_run(site: Site, kills: list[dict]) -> list[StandIn]:
    async def scene():
        for moment in kills:
            process = site.start("--once")
            await site.wait_for(process, moment)
            process.send_signal(signal.SIGKILL)
            await ended(process)
            site.held = None
        process = site.start("--once")
        said = await ended(process)
        assert process.returncode == 0, said

    return site.play(scene)


def check_finished(site: Site) -> np.ndarray:
    record, weights = site.committed()
    assert (record.round, record.survivors, record.failed) == (2, DEVICES, None)
    rounds = [event["round"] for event in site.told() if event["event"] == "RoundFinished"]
    assert rounds == [1, 2]
    versions = Repository.open(site.folder / "data" / "registry").versions()
    assert [version.manifest.round for version in versions] == [1, 2]
    assert versions[-1].sha256 == Engine(site.folder / "data/runs/digits/model.int8.onnx").sha256
    result = json.loads((site.folder / "data/runs/digits/result.json").read_text())
    assert [entry["round"] for entry in result["rounds"]] == [1, 2]
    return weights


def stage(name: str, number: int) -> dict:
    return {"event": "StageStarted", "stage": name, "round": number}


@pytest.mark.slow
def test_kill_9_before_anything_was_signed_changes_nothing_of_what_comes_out(tmp_path):
    weights = []
    for name, kills in (
        ("calm", []),
        (
            "storm",
            [{"event": "StepDone"}, stage("advertise", 1), stage("share", 1), stage("train", 1), stage("train", 2)],
        ),
    ):
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name)
        try:
            devices = whole_run(site, kills)
            weights.append(check_finished(site))
        finally:
            site.fleet.close()
        run = {offer.run for device in devices for offer in device.offers}
        assert len(run) == 1, "it is the same run before and after"
        assert all(device.ended == list(run) for device in devices)
    np.testing.assert_array_equal(*weights)


@pytest.mark.slow
def test_kill_9_once_a_set_was_signed_costs_that_round_and_no_other(site):
    """Devices sign one set of survivors a round, and so refuse another attempt: the difference would be an input."""
    site.held = 3  # advertise, share, sign: the last stage is not over before the signal comes
    whole_run(site, [stage("unmask", 1), {"event": "RoundFinished", "round": 2}])
    with site.store() as store:
        records = store.records(store.find("digits").id)
    assert [(record.round, record.survivors, record.failed is None) for record in records[1:]] == [
        (1, 0, False),
        (2, DEVICES, True),
    ]


def test_a_signal_ends_it_in_good_order_and_a_broker_that_is_not_there_is_waited_for(site):
    site.fleet.broker.stop()

    async def scene():
        process = site.start()
        while not any("is not there" in event.get("text", "") for event in site.told()):
            assert process.poll() is None, process.stderr.read()
            await asyncio.sleep(0.02)
        site.fleet.broker.start()
        await site.wait_for(process, {"event": "StageStarted", "stage": "train", "round": 1})
        process.send_signal(signal.SIGTERM)
        said = await ended(process)
        assert process.returncode == 0, said
        assert "is not there" in said
        assert "stopped behind round 0" in said

    site.play(scene)


def runs(site: Site, *words: str) -> str:
    """What ``fedmesh runs`` says about the coordinator's file."""
    command = [sys.executable, "-m", "fedmesh", "runs", *words, "--config", str(site.config)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def state(site: Site) -> str:
    return json.loads(runs(site, "list", "--json"))[0]["state"]


@pytest.mark.slow
def test_fedmesh_runs_beside_a_coordinator_that_runs(site):
    def asks(*words: str) -> "asyncio.Future[str]":
        return asyncio.ensure_future(asyncio.to_thread(runs, site, *words))

    async def begins() -> subprocess.Popen[str]:
        site.held = 1  # the first device advertises, and is silent then: the round takes its deadline
        process = site.start()
        await site.wait_for(process, stage("share", 1))
        return process

    async def scene():
        process = await begins()
        try:
            assert await asyncio.to_thread(state, site) == "running"
            asking = asks("stop", "digits", "--now")
            await site.wait_for(process, {"event": "RunStopped", "last_round": 0})
            assert "ends now" in await asking
            assert await asyncio.to_thread(state, site) == "stopped"
            process.send_signal(signal.SIGKILL)
            await ended(process)
            assert await asyncio.to_thread(state, site) == "stopped"
            assert "counts as soon as one does" in await asks("resume", "digits")
            process = await begins()
            process.send_signal(signal.SIGKILL)
            await ended(process)
            assert await asyncio.to_thread(state, site) == "interrupted"
            site.held = None
            process = site.start("--once")
            said = await ended(process)
            assert process.returncode == 0, said
        finally:
            process.kill()

    site.play(scene)
    result = json.loads((site.folder / "data/runs/digits/result.json").read_text())
    shown = json.loads(runs(site, "show", "digits", "--json"))
    assert shown.pop("run")["state"] == "finished"
    assert shown == result
