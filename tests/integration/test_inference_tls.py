"""Mutual TLS between real processes: members alone are answered, and only the right node is handed examples."""

import contextlib
import http.client
import json
import ssl
import time
from pathlib import Path

import numpy as np
import pytest
from meshes import Mesh, leaf, rogue
from served_models import digits, write_constant, write_digits_int8
from serving import Served

from fedmesh.errors import PeerError
from fedmesh.identity import Membership
from fedmesh.identity.certificates import new_key
from fedmesh.identity.keyfiles import write_key_and_chain
from fedmesh.inference.handoff import HttpFallback
from fedmesh.transport.tls import dialling

X = np.zeros((2, 4), np.float32)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, begun=time.time())


def context_of(member: Membership) -> ssl.SSLContext:
    return dialling(member.tls_path, member.root_path)


def test_members_alone(mesh: Mesh, tmp_path: Path) -> None:
    node, device, lost = mesh.enrol("node"), mesh.enrol("device-1"), mesh.enrol("device-2")
    write_constant(tmp_path / "m.onnx", 1)
    mesh.issuer.revoke("device-2", mesh.begun)
    node.accept(mesh.begun, revocations=mesh.issuer.lists(mesh.begun)[1])
    with Served("--model", str(tmp_path / "m.onnx"), "--identity", str(node.folder)) as served:
        assert served.url.startswith("https://")
        assert served.predict(X, context_of(device))[0]["label"] == 1
        checks = json.loads(served.get("/readyz", context_of(device))[1])["checks"]
        assert checks == {"model": "ok", "certificate": "ok"}
        status, answer = served.get("/healthz", context_of(lost))
        assert status == 403
        assert "revoked" in json.loads(answer)["got"]
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.check_hostname = False
        nobody.load_verify_locations(device.root_path)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            served.get("/healthz", nobody)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            served.get("/healthz", context_of_rogue(mesh, tmp_path / "rogue.pem"))
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            served.get("/healthz")  # without TLS
        metrics = served.get("/metrics", context_of(device))[1]
        assert 'fedmesh_inference_refused_peers_total{code="revoked"} 1.0' in metrics
        assert 'fedmesh_inference_refused_peers_total{code="handshake"} 3.0' in metrics
        assert "device-1" not in metrics
        assert served.stop() == 0


def context_of_rogue(mesh: Mesh, path: Path) -> ssl.SSLContext:
    """Somebody who calls a mesh of theirs by the same name, and believes this one's server."""
    _, issuer, issuer_key = rogue(now=mesh.begun)
    key = new_key()
    write_key_and_chain(path, key, leaf(issuer, issuer_key, key=key, begin=mesh.begun - 300), issuer)
    return dialling(path, mesh.folder / "device-1" / "root.pem")


def test_a_live_connection_of_a_revoked_member_is_cut(mesh: Mesh, tmp_path: Path) -> None:
    node, device = mesh.enrol("node"), mesh.enrol("device-1")
    write_constant(tmp_path / "m.onnx", 1)
    with Served("--model", str(tmp_path / "m.onnx"), "--identity", str(node.folder)) as served:
        connection = served.connection(context_of(device))
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        assert connection.sock is not None
        mesh.issuer.revoke("device-1", mesh.begun)
        Membership(node.folder).accept(mesh.begun, revocations=mesh.issuer.lists(mesh.begun)[1])
        connection.sock.settimeout(120)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert connection.sock.recv(1) == b""
        connection.close()
        assert served.get("/healthz", context_of(device))[0] == 403
        assert any("a connection is cut" in line for line in served.lines)
        served.stop()


def test_a_small_node_asks_a_big_one(mesh: Mesh, tmp_path: Path) -> None:
    small, big, other = mesh.enrol("small"), mesh.enrol("big"), mesh.enrol("other")
    write_digits_int8(tmp_path / "small.onnx", "small")
    write_digits_int8(tmp_path / "big.onnx", "big")
    _, _, x, y = digits()
    x, y = x[:200], y[:200]

    def right(found: list[dict[str, object]]) -> float:
        return float(np.mean([one["label"] == label for one, label in zip(found, y, strict=True)]))

    with Served("--model", str(tmp_path / "big.onnx"), "--identity", str(big.folder)) as there:
        options = ["--model", str(tmp_path / "small.onnx"), "--identity", str(small.folder), "--insecure"]
        hand_off = ["--threshold", "0.8", "--handoff", there.url, "--handoff-peer", "big"]
        with Served(*options, *hand_off) as here:
            found = here.predict(x)
            asked = [one["handoff"] == "answered" for one in found]
            assert 0 < sum(asked) < len(x)
            assert len({one["model"] for one in found}) == 2
            assert here.metric('fedmesh_inference_handoffs_total{result="answered"}') == sum(asked)
            with Served("--model", str(tmp_path / "small.onnx")) as alone:
                assert right(found) > right(alone.predict(x)) + 0.02
            assert there.stop() == 0
            found = here.predict(x)
            assert {one["handoff"] for one in found} == {"none", "failed"}
            assert len({one["model"] for one in found}) == 1
            assert here.metric('fedmesh_inference_handoffs_total{result="failed"}') > 0
            assert here.stop() == 0
    # Somebody else of the mesh at that place gets no example.
    with Served("--model", str(tmp_path / "big.onnx"), "--identity", str(other.folder)) as impostor:
        fallback = HttpFallback(impostor.url, peer="big", membership=lambda: small)
        with pytest.raises(PeerError, match="'other' answered where 'big' was expected"):
            fallback.predict(x[:2])
        metrics = impostor.get("/metrics", context_of(small))[1]
        assert "fedmesh_inference_requests_total{" not in metrics
