"""A process that is observed: what systemd, Prometheus and a log hear of it."""

import asyncio
import json
import logging
import socket
import urllib.error
import urllib.request

import pytest
from exported import samples

from fedmesh.configuration.values import Address
from fedmesh.events import DeviceFailed, Notice, OfTask, PacketRefused, RoundFinished, RunFinished, WaitingForDevices
from fedmesh.observability import Observer

ROUND = RoundFinished(3, 10, 9, 0.875, 0.5, 1.0, 10.0, 20.0, 2.0)


@pytest.fixture
def systemd(tmp_path):
    """The variables that systemd sets, and what it hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        yield environment, lambda: listener.recv(1000).decode()


def asked(observer: Observer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{observer.address}{path}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_an_event_reaches_everybody(systemd, caplog):
    environment, heard = systemd
    caplog.set_level(logging.INFO, "fedmesh")
    with Observer(Address("127.0.0.1", 0), environment=environment) as observer:
        observer.ready("two tasks")
        observer.events(OfTask("digits", 1, ROUND))
        assert heard() == "READY=1\nSTATUS=two tasks"
        assert heard() == "STATUS=digits: round 3, 9 devices, accuracy 0.875"
        assert b'fedmesh_rounds_total{outcome="ok",task="digits"} 1.0' in asked(observer, "/metrics")[1]
        assert [record.fields["round"] for record in caplog.records] == [3]
    assert heard() == "STOPPING=1"
    assert environment == {}


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (WaitingForDevices(4, 2, 5), "round 4 waits for devices: 2 of 5"),
        (RunFinished(1.0), "finished"),
        (Notice("the roster is old"), "the roster is old"),
        (RoundFinished(3, 9, 0, 0.9, 0.5, None, 0.0, 0.0, 1.0, failed="quorum"), "round 3 failed: quorum"),
    ],
)
def test_what_systemctl_status_says(systemd, event, status):
    environment, heard = systemd
    Observer(None, environment=environment).events(event)
    assert heard() == f"STATUS={status}"


def test_a_loop_that_turns_feeds_the_dog_and_one_that_hangs_does_not(systemd):
    environment, heard = systemd

    async def tended(observer: Observer) -> None:
        tending = asyncio.create_task(observer.tend())
        try:
            assert await asyncio.to_thread(heard) == "WATCHDOG=1"
        finally:
            tending.cancel()

    with Observer(Address("127.0.0.1", 0), silence_s=5.0, environment=environment) as observer:
        asyncio.run(tended(observer))
        assert asked(observer, "/healthz")[0] == 200
        observer.health.alive["inference"] = lambda: "it answers nonsense"
        observer._watchdog._next = 0.0  # it is time again
        assert observer._watchdog.turn() == "inference: it answers nonsense"
        assert heard() == "STATUS=unwell: inference: it answers nonsense"
        status, text = asked(observer, "/healthz")
        assert status == 503
        assert json.loads(text)["wrong"] == {"inference": "it answers nonsense"}


def test_a_heart_that_has_stopped_shows():
    with Observer(Address("127.0.0.1", 0), silence_s=-1.0, environment={}) as observer:
        assert asked(observer, "/healthz")[0] == 503
        assert asked(observer, "/readyz")[0] == 503


def test_what_was_refused_is_counted_by_its_code():
    observer = Observer(None, environment={})
    observer.events(PacketRefused("stranger", "signature"))
    observer.events(OfTask("digits", 1, PacketRefused("stranger", "signature")))
    observer.events(DeviceFailed(1, "train", 3, "late"))
    found = {
        key: value for key, value in samples(observer.metrics.registry).items() if key[0] == "fedmesh_refused_total"
    }
    assert found == {("fedmesh_refused_total", ("part", "packet"), ("reason", "signature")): 2}


def test_without_an_address_nothing_is_served():
    with Observer(None, environment={}) as observer:
        assert observer.address is None
        observer.events(ROUND)
