"""The small parts of a node: alarms, keys by the newest lists, what is posted, and who answers about it."""

import asyncio
import time

import pytest
from mesh_nodes import in_loop
from meshes import Mesh

from fedmesh.cli import main
from fedmesh.configuration import PeerConfig
from fedmesh.errors import ConfigError, MismatchError
from fedmesh.fleet.probing import Interrupted, probe_apart
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.keys import RosterKeys
from fedmesh.peer.status import SOCKET, StatusServer, ask

MINIMAL = {"identity": {"folder": "identity"}, "mesh": {"folder": "state", "seeds": {"gate-1": ["10.0.0.1:7946"]}}}


@in_loop
async def test_an_alarm_rings_at_the_time_that_was_set_last():
    rung = []
    loop = asyncio.get_running_loop()
    alarm = Alarm(lambda: rung.append(loop.time()))
    began = loop.time()
    alarm.set(began + 3_600)
    alarm.set(began + 0.05)
    while not rung:
        await asyncio.sleep(0.01)
    assert rung[0] - began >= 0.05
    alarm.set(loop.time() + 0.01)
    alarm.set(float("inf"))
    await asyncio.sleep(0.05)
    assert len(rung) == 1


@in_loop
async def test_who_is_always_due_does_not_stop_the_loop():
    rung = []

    def ring():
        rung.append(1)
        alarm.set(0.0)

    alarm = Alarm(ring)
    began = time.monotonic()
    alarm.set(0.0)
    while len(rung) < 20:
        await asyncio.sleep(0.01)
    alarm.cancel()
    assert len(rung) <= 1_000 * (time.monotonic() - began) + 1, "a thousand times a second at most"


def test_keys_follow_the_lists(tmp_path):
    mesh = Mesh(tmp_path, begun=time.time() - 60)
    anna, bert = mesh.enrol("anna"), mesh.enrol("bert")
    keys = RosterKeys(anna)
    assert keys("anna") is not None
    assert keys("bert") is None
    roster, revocations = mesh.issuer.lists(time.time())
    anna.accept(time.time(), roster=roster, revocations=revocations)
    assert keys("bert") == bert.signing_key().public_key().public_bytes_raw()
    mesh.issuer.revoke("bert", time.time())
    _, revocations = mesh.issuer.lists(time.time())
    anna.accept(time.time(), revocations=revocations)
    assert keys("bert") is None


@in_loop
async def test_a_status_is_told_however_long_the_path_is(tmp_path):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    (folder / SOCKET).write_text("left by one that was killed")
    server = StatusServer(folder, {"status": lambda _: {"self": "anna"}})
    await server.start()
    assert (folder / SOCKET).stat().st_mode & 0o777 == 0o600
    assert await asyncio.to_thread(ask, folder) == {"self": "anna"}
    await server.aclose()
    with pytest.raises(ConfigError, match="no node runs"):
        await asyncio.to_thread(ask, folder)


def test_what_answers_and_is_no_node(tmp_path):
    (tmp_path / "status.sock").write_text("no socket")
    with pytest.raises(ConfigError, match="no node"):
        ask(tmp_path)


def test_the_minimal_file_of_the_docs(tmp_path):
    config = PeerConfig.parse(MINIMAL, source="f", folder=tmp_path)
    assert config.mesh.folder == tmp_path / "state"
    assert [str(each) for each in config.mesh.seeds["gate-1"]] == ["10.0.0.1:7946"]
    assert [str(each) for each in config.mesh.listen] == ["0.0.0.0:7946"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mesh": {"folder": "state", "seed": {}}}, "did you mean mesh.seeds"),
        ({"mesh": {"folder": "state", "seeds": {"Gate": ["10.0.0.1:7946"]}}}, "no name of a party"),
        ({"mesh": {"folder": "state", "seeds": {"gate": ["10.0.0.1"]}}}, "is not HOST:PORT"),
        ({"mesh": {"folder": "state", "discovery": {"enabled": False}}}, "nobody would be looked for"),
        ({"registry": {"trusted_root": "r"}, "publish": {"folder": "p"}}, "who publishes has the models"),
        ({"broker": {"host": "h"}}, "broker: unknown key"),
        ({"bridge": {"host": "h", "coordinator": "gate-1"}}, "'gate-1' is a seed and"),
        ({"bridge": {"coordinator": "gate-1"}}, "bridge.host: is missing"),
        ({"mesh": {"folder": "state", "connections": 1}}, "mesh.connections"),
    ],
)
def test_a_file_that_is_wrong(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        PeerConfig.parse({**MINIMAL, **changes}, source="f")


def test_a_file_is_checked(tmp_path, capsys):
    mesh = Mesh(tmp_path, begun=time.time() - 60)
    mesh.enrol("anna")
    path = tmp_path / "peer.toml"
    path.write_text('[identity]\nfolder = "anna"\n[mesh]\nfolder = "state"\n[mesh.seeds]\nanna = ["127.0.0.1:7946"]\n')
    assert main(["config", "check", str(path)]) == 0
    assert "peer's configuration" in capsys.readouterr().out
    path.write_text(path.read_text() + '[bridge]\nhost = "localhost"\n')
    assert main(["config", "check", str(path)]) == 0
    assert "coordinator at localhost:8883: signed lists cross, no models" in capsys.readouterr().out
    path.write_text(path.read_text() + '[publish]\nfolder = "nowhere"\n')
    assert main(["config", "check", str(path), "--kind", "peer"]) == 2
    assert "there is no repository" in capsys.readouterr().out
    assert main(["mesh", "status", str(path)]) == 2
    assert "no node runs" in capsys.readouterr().err
    assert main(["mesh", "status", str(tmp_path / "none.toml")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_probe_ends_with_who_wanted_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(Interrupted):
        probe_apart(tmp_path / "model.onnx", stopped=lambda: True)
    with pytest.raises(MismatchError):
        probe_apart(tmp_path / "model.onnx")
