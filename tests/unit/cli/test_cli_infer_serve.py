"""What the command line of ``infer --serve`` refuses, and what it says."""

import importlib.util
import socket
from pathlib import Path

import pytest
from served_models import write_constant

from fedmesh.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_constant(tmp_path / "m.onnx", 1)
    return str(tmp_path / "m.onnx")


def refused(capsys: Capture, *arguments: str) -> str:
    assert main(["infer", *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_does_not_go_together(model: str, tmp_path: Path, capsys: Capture) -> None:
    for arguments, said in (
        (["--serve"], "name a model (--model FILE) or a folder of slots"),
        (["--serve", "--model", model, "--slots", str(tmp_path)], "one of them"),
        (["--serve", model, "--model", model], "two models"),
        (["--serve", "--model", model, "--threshold", "0.5"], "name both"),
        (["--serve", "--model", model, "--handoff", "http://127.0.0.1:1"], "name both"),
        (["--serve", "--model", model, "--handoff-peer", "big"], "name that too"),
        (["--serve", "--model", model, "--threshold", "1.5", "--handoff", "http://127.0.0.1:1"], "--threshold"),
        (["--serve", "--model", model, "--threshold", "1", "--handoff", "http://10.0.0.1:1"], "in the clear"),
        (["--serve", "--model", model, "--threshold", "1", "--handoff", "https://10.0.0.1:1"], "identity folder"),
        (["--serve", "--model", model, "--data", "digits"], "--data is not for --serve"),
        (["--serve", "--model", model, "--json"], "--json is not for --serve"),
        ([model, "--data", "digits", "--threshold", "0"], "--threshold needs --serve"),
        ([model, "--data", "digits", "--insecure"], "--insecure needs --serve"),
        ([model], "Missing option '--data'"),
        (["--data", "digits"], "Missing argument 'MODEL.onnx'"),
    ):
        assert said in refused(capsys, *arguments), arguments


def test_where_it_does_not_listen(model: str, tmp_path: Path, capsys: Capture) -> None:
    for place in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80"):
        said = refused(capsys, "--serve", "--model", model, "--listen", place)
        assert "--identity" in said
        assert "--insecure" in said
    assert "HOST:PORT" in refused(capsys, "--serve", "--model", model, "--listen", "8000")
    assert "cannot listen at 192.0.2.1:80" in refused(
        capsys, "--serve", "--model", model, "--listen", "192.0.2.1:80", "--insecure"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "choose another address or port" in refused(capsys, "--serve", "--model", model, "--listen", place)


def test_without_the_extra(model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    assert "fastapi is not installed: pip install 'fedmesh[serve]'" in refused(capsys, "--serve", "--model", model)


def test_what_cannot_be_served(model: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 99)
    assert "not an ONNX model" in refused(capsys, "--serve", str(tmp_path / "junk.onnx"))
    assert "not a folder of slots" in refused(capsys, "--serve", "--slots", str(tmp_path / "none"))
    assert "nobody is enrolled" in refused(capsys, "--serve", "--model", model, "--identity", str(tmp_path))
    (tmp_path / "golden.cbor").write_bytes(b"junk")
    assert "not a golden set" in refused(capsys, "--serve", "--model", model)
