"""What is shown of a party's connection and certificate."""

from types import SimpleNamespace

from exported import samples
from meshes import NOW, Mesh

from fedmesh.cli.observing import watch_party
from fedmesh.observability import Observer


def test_a_party_is_ready_while_it_is_connected_with_a_certificate_for_a_day(tmp_path):
    device, now = Mesh(tmp_path).enrol(), [NOW]
    transport = SimpleNamespace(link=SimpleNamespace(is_connected=False), present={"a", "b"}, counts={"digest": 2})
    observer = Observer(None, environment={})
    watch_party(observer, device, transport, clock=lambda: now[0])
    assert observer.health.unready() == {"broker": "there is no connection to the broker"}
    transport.link.is_connected = True
    assert observer.health.unready() == {}
    found = samples(observer.metrics.registry)
    assert found["fedmesh_broker_connected",] == 1
    assert found["fedmesh_peers_present",] == 2
    assert found["fedmesh_refused_total", ("part", "transport"), ("reason", "digest")] == 2
    ends = device.leaf.not_valid_after_utc.timestamp()
    assert found["fedmesh_certificate_expiry_timestamp_seconds",] == ends
    now[0] = ends - 86_400
    assert observer.health.unready() == {"certificate": "the certificate ends within a day"}
    assert observer.health.dead() == {}
