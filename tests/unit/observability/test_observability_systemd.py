"""sd_notify over a real datagram socket, and the watchdog."""

import os
import socket

import pytest

from fedmesh.observability.systemd import Notifier, Watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A socket that stands for systemd's, and its address."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@fedmesh-test-{os.getpid()}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1))
        listener.settimeout(60)
        yield address, lambda: listener.recv(1000).decode()


def test_what_systemd_hears(manager):
    address, heard = manager
    environment = {"NOTIFY_SOCKET": address}
    notifier = Notifier.from_environment(environment)
    assert environment == {}  # no child speaks in our name
    notifier.ready("3 tasks")
    assert heard() == "READY=1\nSTATUS=3 tasks"
    notifier.status("round 3\nREADY=1")
    assert heard() == "STATUS=round 3 READY=1"
    notifier.alive()
    assert heard() == "WATCHDOG=1"
    notifier.stopping()
    assert heard() == "STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9"}])
def test_without_systemd_nothing_is_said(environment):
    Notifier.from_environment(environment).ready()


def test_a_manager_that_is_gone_stops_nobody(tmp_path):
    Notifier(str(tmp_path / "none")).ready()


def test_the_dog_is_fed_after_a_probe_and_only_then(manager):
    address, heard = manager
    now, fault = [0.0], [None]
    probed = []

    def probe():
        probed.append(now[0])
        return fault[0]

    dog = Watchdog(Notifier(address), probe, 10.0, lambda: now[0])
    assert dog.turn() is None
    assert heard() == "WATCHDOG=1"
    now[0] = 9.9
    dog.turn()
    assert probed == [0.0]
    now[0], fault[0] = 10.0, "the model answers nonsense"
    assert dog.turn() == "the model answers nonsense"
    assert heard() == "STATUS=unwell: the model answers nonsense"
    now[0], fault[0] = 20.0, None
    dog.turn()
    assert heard() == "WATCHDOG=1"
    assert heard() == "STATUS=well again"


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_limit_is_systemds(environment, interval_s):
    dog = Watchdog.from_environment(Notifier(None), lambda: None, environment)
    assert dog.interval_s == interval_s
    assert environment == {}


def test_without_a_dog_nothing_is_probed():
    assert Watchdog(Notifier(None), lambda: "wrong", None).turn() is None
