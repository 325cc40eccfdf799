"""``fedmesh model``: both sides of a delivery as an operator has them, what is refused, and with which exit code."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fedmesh.cli import main
from fedmesh.registry import FolderSource
from fedmesh.registry.install import Installer

Capture = pytest.CaptureFixture[str]


def linear(path: Path, seed: int) -> Path:
    """A model of four features and three classes."""
    weights = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FEDMESH_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["model", "init", "repo"]) == 0
    np.savez(tmp_path / "public.npz", x=np.ones((20, 4), np.float32), y=np.zeros(20, np.int64))
    for number in (1, 2):
        linear(tmp_path / f"{number}.onnx", number)
    return tmp_path


def publish(number: int, *options: str) -> None:
    assert main(["model", "publish", f"{number}.onnx", "--dir", "repo", "--round", str(number), *options]) == 0


def install() -> None:
    """As a device's agent does."""
    with Installer(
        Path("models"), source=FolderSource(Path("repo/public")), probe=lambda path, manifest: None
    ) as device:
        device.update()


def out(arguments: list[str], capsys: Capture) -> str:
    capsys.readouterr()
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


def failed(arguments: list[str], capsys: Capture, *, code: int) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert not captured.out
    return captured.err


def test_init_says_what_to_carry_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = out(["model", "init", "repo"], capsys)
    assert "repo/public/metadata/1.root.json" in text
    assert "repo/keys/root.key" in text
    assert "new folder" in failed(["model", "init", "repo"], capsys, code=2)


def test_from_publishing_to_a_rollback(here, capsys):
    publish(1, "--epsilon", "1.5", "--survivors", "4", "--task", "digits", "--golden", "public.npz")
    publish(2)
    text = out(["model", "list", "repo"], capsys)
    assert "rollout 100 %" in text
    assert "1.5" in text
    found = json.loads(out(["model", "list", "repo", "--json"], capsys))
    assert [(item["version"], item["round"], item["state"]) for item in found["versions"]] == [
        (1, 1, "published"),
        (2, 2, "rollout 100 %"),
    ]
    text = out(["model", "show", "1", "--dir", "repo"], capsys)
    for part in ("digits", "survivors", "1.5", "float32 ['any', 4]", "golden"):
        assert part in text
    assert json.loads(out(["model", "show", "2", "--dir", "repo", "--json"], capsys))["parent"] is not None
    assert "there are 1, 2" in failed(["model", "show", "3", "--dir", "repo"], capsys, code=2)
    assert "Version 3 is published" in out(["model", "rollback", "--dir", "repo"], capsys)
    assert json.loads(out(["model", "show", "3", "--dir", "repo", "--json"], capsys))["restores"] == 1
    assert "25 percent" in out(["model", "rollout", "3", "--percent", "25", "--dir", "repo"], capsys)
    assert "rollout 25 %" in out(["model", "list", "repo"], capsys)
    assert "Nothing to do" in out(["model", "refresh", "repo"], capsys)


def test_a_device_is_shown_verified_pinned_and_taken_back(here, capsys):
    publish(1, "--golden", "public.npz")
    assert "no model was installed" in failed(["model", "list"], capsys, code=2)
    assert "SHA-256" in out(["model", "trust", "repo/public/metadata/1.root.json"], capsys)
    install()
    publish(2)
    install()
    rows = json.loads(out(["model", "list", "--json"], capsys))["versions"]
    assert [(row["version"], row["slot"], row["state"]) for row in rows] == [(1, "a", "good"), (2, "b", "runs")]
    for path in ("models", "models/slots/a", "models/slots/b", "models/slots/b/model.onnx"):
        assert "as its signers allowed" in out(["model", "verify", path], capsys)
    assert "it runs" in out(["model", "pin", "2"], capsys)
    assert "pinned to version 2" in out(["model", "list"], capsys)
    assert "follows" in out(["model", "unpin"], capsys)
    assert "version 9 is not in the other slot" in failed(["model", "rollback", "9"], capsys, code=2)
    assert "runs version 1" in out(["model", "rollback", "--reason", "it smells"], capsys)
    text = out(["model", "list"], capsys)
    assert "version 2 failed here: it smells" in text
    assert "only good one" in failed(["model", "rollback"], capsys, code=2)
    install()
    assert json.loads(out(["model", "show", "1", "--json"], capsys))["state"] == "runs"


def test_verify_exits_with_1_for_whatever_is_wrong(here, capsys):
    publish(1)
    assert main(["model", "trust", "repo/public/metadata/1.root.json"]) == 0
    install()
    slot = Path("models/slots/a")
    whole = (slot / "model.onnx").read_bytes()
    (slot / "model.onnx").write_bytes(whole + b"\0")
    assert "SHA-256 differs" in failed(["model", "verify", "models"], capsys, code=1)
    (slot / "model.onnx").write_bytes(whole)
    assert main(["model", "verify", str(slot)]) == 0
    manifest = (slot / "manifest.cbor").read_bytes()
    (slot / "manifest.cbor").write_bytes(manifest[:-1])
    assert "refused" in failed(["model", "verify", str(slot)], capsys, code=1)
    (slot / "manifest.cbor").write_bytes(manifest)
    (slot / "proof.cbor").rename(slot / "proof")
    assert "proof" in failed(["model", "verify", str(slot)], capsys, code=1)
    (slot / "proof").rename(slot / "proof.cbor")
    assert main(["model", "init", "other"]) == 0
    other = "other/public/metadata/1.root.json"
    assert "not signed by who may" in failed(["model", "verify", str(slot), "--root", other], capsys, code=1)
    assert "fedmesh model trust" in failed(["model", "verify", "1.onnx"], capsys, code=1)
    assert "there is nothing at nowhere" in failed(["model", "verify", "nowhere"], capsys, code=1)


def test_two_signers_elsewhere(here, capsys):
    for name in ("a", "b"):
        assert f"{name}.pub" in out(["model", "key", f"{name}.key"], capsys)
    assert "end in .key" in failed(["model", "key", "c"], capsys, code=2)
    assert main(["model", "init", "two", "--signer", "a.pub", "--signer", "b.pub", "--threshold", "2"]) == 0
    assert "lacks 2 signatures" in out(["model", "publish", "1.onnx", "--dir", "two"], capsys)
    assert "lacks 2 signatures" in out(["model", "list", "two"], capsys)
    assert "lacks one signature" in out(["model", "sign", "two", "--key", "a.key"], capsys)
    assert "is published" in out(["model", "sign", "two", "--key", "b.key"], capsys)
    assert main(["model", "key", "c.key"]) == 0
    arguments = ["model", "signers", "two", "--root-key", "two/keys/root.key", "--signer", "c.pub", "--threshold", "1"]
    assert "Root 2 is in force" in out(arguments, capsys)
    assert "Version 1 is published" in out(["model", "sign", "two", "--key", "c.key"], capsys)


def test_a_root_is_the_one_that_was_meant(here, capsys):
    root = "repo/public/metadata/1.root.json"
    assert "not the one that was meant" in failed(["model", "trust", root, "--sha256", "00"], capsys, code=2)
    assert "no root" in failed(["model", "trust", "1.onnx"], capsys, code=2)
    timestamp = "repo/public/metadata/timestamp.json"
    assert "not its root" in failed(["model", "trust", timestamp], capsys, code=2)
    assert main(["model", "trust", root]) == 0
    assert main(["model", "trust", root]) == 0
    assert main(["model", "init", "other"]) == 0
    assert "another root" in failed(["model", "trust", "other/public/metadata/1.root.json"], capsys, code=2)


def test_what_is_no_model_is_not_published(here, capsys):
    Path("no.onnx").write_bytes(b"no model")
    assert "not an ONNX model" in failed(["model", "publish", "no.onnx", "--dir", "repo"], capsys, code=2)
    assert "fedmesh model init" in failed(["model", "publish", "1.onnx", "--dir", "nowhere"], capsys, code=2)
    assert "repo is a repository" in failed(["model", "pin", "1", "--dir", "repo"], capsys, code=2)
    assert "Nothing is here yet" in out(["model", "list", "repo"], capsys)
    assert "none to go back to" in failed(["model", "rollback", "--dir", "repo"], capsys, code=2)
