import pytest

from fedmesh.cli import main
from fedmesh.testing.loopback_broker import SmallCa


@pytest.fixture
def told(tmp_path):
    ca = SmallCa(tmp_path / "ca")
    certificate, key = ca.issue("broker", hosts=("mqtt.example", "10.0.0.1"))
    return {"--ca": ca.path, "--cert": certificate, "--key": key, "--name": "mqtt.example"}


def run(folder, told, *more):
    options = [str(word) for pair in told.items() for word in pair]
    return main(["broker", "config", str(folder), *options, *more])


def test_it_writes_a_configuration_and_tells_how_to_start(tmp_path, told, capsys):
    assert run(tmp_path / "broker", told, "--port", "9999", "--coordinator", "alpha", "--coordinator", "beta") == 0
    out = capsys.readouterr().out
    assert f"mosquitto -c {tmp_path / 'broker' / 'mosquitto.conf'}" in out
    lines = (tmp_path / "broker" / "mosquitto.conf").read_text().splitlines()
    assert {
        "allow_anonymous false",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "tls_version tlsv1.3",
        "set_tcp_nodelay true",
        "max_queued_messages 0",
        "persistence true",
        "listener 9999",
        f"acl_file {tmp_path / 'broker' / 'acl'}",
    } <= set(lines)
    assert [line for line in lines if line.startswith("listener")] == ["listener 9999"]
    assert [int(line.split()[1]) > 0 for line in lines if line.startswith("max_queued_bytes")] == [True]
    acl = (tmp_path / "broker" / "acl").read_text()
    assert "user alpha" in acl
    assert "user beta" in acl


def test_it_writes_again_what_nobody_changed_and_nothing_that_somebody_did(tmp_path, told, capsys):
    folder = tmp_path / "broker"
    assert run(folder, told) == 0
    assert run(folder, told, "--port", "1234") == 0
    acl = folder / "acl"
    acl.write_text("topic readwrite #\n" + acl.read_text())
    assert run(folder, told) == 2
    assert "changed by hand" in capsys.readouterr().err
    assert "listener 1234" in (folder / "mosquitto.conf").read_text()
    assert run(folder, told, "--force") == 0
    assert "readwrite" not in acl.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--name": "other.example"}, "is for mqtt.example, 10.0.0.1, not for other.example"),
        ({"--port": "0"}, "is not a port"),
        ({"--coordinator": "a+b"}, "is no name of a coordinator"),
        ({"--address": "1.2.3.4 5"}, "white space"),
        ({"--cert": "/nowhere.pem"}, "cannot use the certificate"),
    ],
)
def test_what_would_not_work_is_refused(tmp_path, told, capsys, change, said):
    assert run(tmp_path / "broker", {**told, **change}) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "broker" / "mosquitto.conf").exists()


def test_the_key_has_to_belong_to_the_certificate_and_to_nobody_else(tmp_path, told, capsys):
    _, other = SmallCa(tmp_path / "other").issue("broker", hosts=("mqtt.example",))
    assert run(tmp_path / "broker", {**told, "--key": other}) == 2
    told["--key"].chmod(0o644)
    assert run(tmp_path / "broker", told) == 2
    assert "everybody can read the key" in capsys.readouterr().err


def test_a_clients_certificate_does_not_make_a_broker(tmp_path, told, capsys):
    certificate, key = SmallCa(tmp_path / "other").issue("device")
    assert run(tmp_path / "broker", {**told, "--cert": certificate, "--key": key}) == 2
