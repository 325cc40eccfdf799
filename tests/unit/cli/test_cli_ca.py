"""``fedmesh ca`` and ``fedmesh enroll``: what they print, what they refuse, and what is nowhere to be read."""

import json
import stat
from pathlib import Path

import pytest

from fedmesh.cli import durations, main
from fedmesh.errors import ConfigError
from fedmesh.identity import Membership, Token
from fedmesh.identity.keyfiles import read_certificates

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    for name in ("FEDMESH_CA", "FEDMESH_TOKEN", "FEDMESH_ROOT_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["ca", "init", "ca", "--name", "home"]) == 0
    capsys.readouterr()
    (tmp_path / "ca" / "root.key").rename(tmp_path / "root.key")
    return tmp_path / "ca"


def token(capsys: Capture, device: str = "device-1", *options: str) -> str:
    assert main(["ca", "token", device, *options]) == 0
    return capsys.readouterr().out.strip()


def enrolled(capsys: Capture, device: str = "device-1") -> Path:
    """A device's folder, enrolled by carrying files."""
    text = token(capsys, device)
    assert main(["enroll", "--dir", device, "--token", text, "--csr", "request"]) == 0
    assert main(["ca", "sign", "request", "--out", "answer", "--token", text]) == 0
    assert main(["enroll", "--dir", device, "--install", "answer"]) == 0
    capsys.readouterr()
    return Path(device)


def failed(arguments: list[str], capsys: Capture, *, code: int) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_init_says_what_to_do_with_the_root_key(tmp_path: Path, capsys: Capture) -> None:
    assert main(["ca", "init", str(tmp_path / "ca"), "--name", "home"]) == 0
    shown = capsys.readouterr().out
    assert f"move {tmp_path / 'ca' / 'root.key'}" in shown
    assert "PRIVATE" not in shown
    assert "never made over another" in failed(["ca", "init", str(tmp_path / "ca")], capsys, code=2)


def test_a_token_says_for_whom_and_where_and_nothing_is_on_stdout_but_it(ca: Path, capsys: Capture) -> None:
    assert main(["ca", "token", "device-1", "--address", "ca.local:7443", "--ttl", "30m"]) == 0
    captured = capsys.readouterr()
    made = Token.parse(captured.out)
    assert captured.out == made.text + "\n"
    assert (made.name.uri, made.address) == ("fedmesh://home/device-1", "ca.local:7443")
    assert "for 30m" in captured.err


def test_enrolling_by_files_makes_identity_and_anchor(ca: Path, capsys: Capture) -> None:
    folder = enrolled(capsys)
    assert Membership(folder).name.uri == "fedmesh://home/device-1"
    assert stat.S_IMODE((folder / "device-1.anchor").stat().st_mode) == 0o600
    assert main(["enroll", "--dir", str(folder), "--renew", "--server", "localhost:1"]) == 0
    assert "It is not time yet" in capsys.readouterr().out


def test_an_anchor_is_made_with_the_key_and_never_again(ca: Path, capsys: Capture) -> None:
    folder = enrolled(capsys)
    (folder / "device-1.anchor").unlink()
    text = token(capsys, "device-1", "--again")
    assert main(["enroll", "--dir", str(folder), "--token", text, "--csr", "request"]) == 0
    assert not (folder / "device-1.anchor").exists()


def test_list_shows_everybody(ca: Path, capsys: Capture) -> None:
    enrolled(capsys, "device-1")
    enrolled(capsys, "device-2")
    token(capsys, "device-3")
    assert main(["ca", "server", "broker", "--out", "broker", "--dns", "broker.local", "--ip", "127.0.0.1"]) == 0
    assert main(["ca", "revoke", "device-2"]) == 0
    capsys.readouterr()
    assert main(["ca", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {row["id"]: (row["kind"], row["state"]) for row in shown["parties"]} == {
        "broker": ("server", "enrolled"),
        "device-1": ("device", "enrolled"),
        "device-2": ("device", "revoked"),
    }
    assert [row["id"] for row in shown["tokens"]] == ["device-3"]
    assert main(["ca", "list"]) == 0
    plain = capsys.readouterr().out
    assert all(word in plain for word in ("device-1", "device-2", "device-3", "broker", "revoked", "not used yet"))


def test_a_right_is_given_and_taken_back(ca: Path, capsys: Capture) -> None:
    enrolled(capsys)
    assert "nobody called 'nobody'" in failed(["ca", "grant", "nobody", "--runs"], capsys, code=1)
    assert "--runs; or --take-back" in failed(["ca", "grant", "device-1"], capsys, code=2)

    def rights() -> list[str]:
        assert main(["ca", "list", "--json"]) == 0
        found: list[str] = json.loads(capsys.readouterr().out)["parties"][0]["rights"]
        return found

    assert rights() == []
    assert main(["ca", "grant", "device-1", "--runs"]) == 0
    assert "device-1 may start runs" in capsys.readouterr().out
    assert rights() == ["runs"]
    assert main(["ca", "list"]) == 0
    assert "runs" in capsys.readouterr().out
    assert main(["ca", "grant", "device-1", "--take-back"]) == 0
    capsys.readouterr()
    assert rights() == []
    assert main(["ca", "grant", "device-1", "--runs"]) == main(["ca", "revoke", "device-1"]) == 0
    capsys.readouterr()
    assert rights() == []


def test_lists_are_written_to_be_carried(ca: Path, capsys: Capture) -> None:
    device = Membership(enrolled(capsys))
    enrolled(capsys, "device-2")
    assert main(["ca", "revoke", "device-2"]) == 0
    assert main(["ca", "lists", "--out", "lists"]) == 0
    now = device.leaf.not_valid_before_utc.timestamp() + 600
    accepted = device.accept(
        now,
        roster=Path("lists/roster.signed").read_bytes(),
        revocations=Path("lists/revocations.signed").read_bytes(),
    )
    assert accepted
    assert list(device.roster.keys) == ["device-1"]


def test_the_next_issuer_needs_the_root_key(ca: Path, capsys: Capture) -> None:
    assert main(["ca", "issuer", "--root-key", "root.key"]) == 0
    assert "Issuer 2 is in force" in capsys.readouterr().out
    assert [certificate.serial_number for certificate in read_certificates(ca / "issuers.pem")] == [2, 1]
    assert "cannot read" in failed(["ca", "issuer", "--root-key", "nowhere"], capsys, code=2)


def test_a_passphrase_comes_from_the_environment(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ca"
    monkeypatch.setenv("FEDMESH_ROOT_PASSPHRASE", "correct horse")
    assert main(["ca", "init", str(folder), "--passphrase"]) == 0
    key = folder / "root.key"
    assert b"ENCRYPTED" in key.read_bytes()
    assert "name it" in failed(["ca", "issuer", "--ca", str(folder), "--root-key", str(key)], capsys, code=2)
    assert main(["ca", "issuer", "--ca", str(folder), "--root-key", str(key), "--passphrase"]) == 0
    monkeypatch.setenv("FEDMESH_ROOT_PASSPHRASE", "")
    assert "is empty" in failed(["ca", "init", str(tmp_path / "other"), "--passphrase"], capsys, code=2)
    assert "correct horse" not in capsys.readouterr().out


def test_a_root_key_that_was_left_lying_is_warned_of(ca: Path, capsys: Capture) -> None:
    (ca.parent / "root.key").rename(ca / "root.key")
    assert main(["ca", "server", "broker", "--out", "broker"]) == 0
    assert "root.key is still here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["ca", "token", "Device"], "is no name of a device", 1),
        (["ca", "token", "ca"], "the authority's own name", 1),
        (["ca", "token", "device-1", "--ttl", "1"], "is no duration", 2),
        (["ca", "token", "device-1", "--ttl", "90d"], "out of range", 2),
        (["ca", "token", "device-1", "--address", "nowhere"], "is not HOST:PORT", 2),
        (["ca", "token", "device-1", "--ca", "nowhere"], "there is no authority", 2),
        (["ca", "revoke", "device-1"], "nobody called", 1),
        (["ca", "list", "--ca", "nowhere"], "there is no authority", 2),
        (["ca", "server", "broker", "--out", "ca"], "is not empty", 2),
        (["ca", "server", "broker", "--out", "b", "--dns", "a b"], "neither a DNS name", 2),
        (["ca", "server", "broker", "--out", "b", "--days", "31"], "31", 2),
        (["ca", "sign", "nowhere", "--out", "x", "--token", "y"], "cannot read", 2),
        (["enroll", "--token", "fedmesh-x"], "copy it whole", 2),
        (["enroll", "--renew"], "nobody is enrolled", 2),
        (["enroll", "--renew", "--csr", "x"], "three different things", 2),
        (["enroll", "--now"], "three different things", 2),
        (["enroll", "--install", "x"], "no enrolment was begun", 2),
        (["ca", "serve", "ca", "--listen", "here"], "is not HOST:PORT", 2),
    ],
)
def test_mistakes(arguments: list[str], said: str, code: int, ca: Path, capsys: Capture) -> None:
    assert said in failed(arguments, capsys, code=code)


def test_a_token_without_an_address_wants_a_server(ca: Path, capsys: Capture) -> None:
    text = token(capsys)
    said = failed(["enroll", "--token", text], capsys, code=2)
    assert "--server" in said
    assert text not in said
    assert "cannot connect" in failed(["enroll", "--token", text, "--server", "127.0.0.1:1"], capsys, code=1)


def test_durations_and_addresses() -> None:
    assert [durations.seconds(text, least_s=0, most_s=1e9) for text in ("90s", "30m", "24h", "7d")] == [
        90, 1_800, 86_400, 604_800,
    ]  # fmt: skip
    for text in ("", "s", "1", "1.5h", "-1h", "1w", "\u0661h", "9999999999s"):
        with pytest.raises(ConfigError):
            durations.seconds(text, least_s=0, most_s=1e12)
    assert durations.address("ca.local:7443") == ("ca.local", 7443)
    assert durations.address("[::1]:7443") == ("::1", 7443)
    assert durations.address("[::1]:0", any_port=True) == ("::1", 0)
    for text in ("", "ca", "ca:", ":1", "::1:1", "ca:0", "ca:65536", "ca:x", "é:1"):
        with pytest.raises(ConfigError):
            durations.address(text)
