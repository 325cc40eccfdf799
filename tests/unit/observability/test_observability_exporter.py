"""``/metrics``, ``/healthz``, ``/readyz`` over a real socket, and who keeps it busy."""

import http.client
import json
import socket

import pytest

from fedmesh.configuration.values import Address
from fedmesh.errors import ConfigError
from fedmesh.observability import Health, Heartbeat, MetricsServer, exporter, new_registry

ANY = Address("127.0.0.1", 0)


def asked(server: MetricsServer, path: str, *, method: str = "GET", accept: str = "") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.address.host, server.address.port, timeout=60)
    try:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_metrics_are_served_as_they_are_asked_for():
    with MetricsServer(ANY, new_registry(), Health()) as server:
        assert server.address.port != 0
        status, kind, text = asked(server, "/metrics")
        assert status == 200
        assert kind.startswith("text/plain")
        assert b"\nfedmesh_build_info{" in text
        assert asked(server, "/metrics?a=b", accept="application/openmetrics-text; version=1.0.0")[2].endswith(
            b"# EOF\n"
        )
        assert asked(server, "/metrics", method="HEAD")[::2] == (200, b"")
        assert asked(server, "/etc/passwd")[0] == 404
        assert asked(server, "/metrics", method="POST")[0] == 501


def test_health_is_what_the_probes_say():
    faults: dict[str, str | None] = {"loop": None, "model": "none is loaded"}
    health = Health(alive={"loop": lambda: faults["loop"]}, ready={"model": lambda: faults["model"]})
    with MetricsServer(ANY, new_registry(), health) as server:
        assert asked(server, "/healthz")[0] == 200
        status, _, text = asked(server, "/readyz")
        assert status == 503
        assert json.loads(text) == {"ok": False, "wrong": {"model": "none is loaded"}}
        faults["model"] = None
        assert asked(server, "/readyz")[0] == 200
        faults["loop"] = "it hangs"
        assert asked(server, "/healthz")[0] == asked(server, "/readyz")[0] == 503


def test_a_probe_that_raises_is_a_fault_that_tells_no_secret():
    def probe() -> str | None:
        raise ValueError("password hunter2")

    assert Health(alive={"a": probe}).dead() == {"a": "the probe failed: ValueError"}


def test_a_heart_that_stops_is_noticed():
    now = [0.0]
    heart = Heartbeat(10, lambda: now[0])
    now[0] = 10.0
    assert heart() is None
    now[0] = 10.1
    assert heart() == "the loop has not turned for 10 s"
    heart.beat()
    assert heart() is None


def test_an_address_that_is_taken_is_the_operators_mistake():
    with (
        MetricsServer(ANY, new_registry(), Health()) as first,
        pytest.raises(ConfigError, match="cannot serve metrics on 127"),
    ):
        MetricsServer(first.address, new_registry(), Health()).start()


def test_it_can_be_closed_twice_and_started_anew():
    server = MetricsServer(ANY, new_registry(), Health())
    server.close()
    server.start()
    server.close()
    server.close()
    server.start()
    assert asked(server, "/healthz")[0] == 200
    server.close()


def test_who_says_nothing_is_cut_and_others_are_served_again(monkeypatch):
    monkeypatch.setattr(exporter, "_LONGEST_S", 0.2)
    with MetricsServer(ANY, new_registry(), Health()) as server:
        place = (server.address.host, server.address.port)
        idle = [socket.create_connection(place, timeout=60) for _ in range(exporter._CONNECTIONS + 4)]
        # Those beyond the limit are closed at once, the others when their time is up, long before the five seconds of
        # silence that a single read may take.
        assert [connection.recv(1) for connection in idle] == [b""] * len(idle)
        monkeypatch.setattr(exporter, "_LONGEST_S", 60.0)  # a busy machine may take longer to ask
        assert asked(server, "/healthz")[0] == 200
        for connection in idle:
            connection.close()


def test_over_ipv6():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    with MetricsServer(Address("::1", 0), new_registry(), Health()) as server:
        assert asked(server, "/healthz")[0] == 200
