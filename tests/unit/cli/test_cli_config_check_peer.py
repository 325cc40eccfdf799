"""``fedmesh config check`` of a member of a mesh: what it trains on, and under which policy."""

import json
import time

import numpy as np
import pytest
from meshes import Mesh

from fedmesh.cli import main

PEER = '[identity]\nfolder = "device-1"\n[mesh]\nfolder = "state"\n[mesh.seeds]\ngate = ["10.0.0.1:7946"]\n'
DATA = '[data]\nkind = "npz"\npath = "examples.npz"\n'


@pytest.fixture
def checked(tmp_path, capsys):
    """The exit code, and name -> (status, detail), of a file with these tables more."""
    Mesh(tmp_path, begun=time.time()).enrol()

    def check(more):
        path = tmp_path / "peer.toml"
        path.write_text(PEER + more)
        code = main(["config", "check", str(path), "--json"])
        told = json.loads(capsys.readouterr().out)["checks"]
        return code, {each["name"]: (each["status"], each["detail"]) for each in told}

    check.folder = tmp_path
    return check


def test_a_member_without_data_votes_only(checked):
    code, told = checked("")
    assert code == 0
    assert told["training"] == ("note", "none: this member votes only")


def test_what_a_member_trains_on_is_looked_at_as_a_devices_is(checked):
    code, told = checked(DATA)
    assert code == 2
    assert told["data"][0] == "failed"
    np.savez(checked.folder / "examples.npz", x=np.zeros((3, 2), np.float32), y=np.zeros(3, np.int64))
    code, told = checked(DATA + "[privacy]\nexample_epsilon = 3.0\n")
    assert code == 0, told
    assert "full" in told["tier"][1]
    assert "at most epsilon 3 " in told["privacy"][1]
    assert "training" not in told
    assert told["inputs"] == ("ok", "up to 64 MB: 21 million parameters at 24 bits")
    code, told = checked(DATA + "[limits]\nmessage_mb = 16\n")
    assert (code, told["inputs"]) == (0, ("note", "runs whose inputs have more than 16 MB are declined"))
