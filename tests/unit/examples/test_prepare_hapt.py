"""The script that makes the har file, on a synthetic recording and against the published conversion."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmesh.federation.datasets import load

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("FEDMESH_DATA", ROOT / ".." / "shared" / "data"))
STREAMS, WINDOWS = (DATA / "uci-har" / name for name in ("hapt_raw_streams.npz", "hapt_windows.npz"))


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "examples" / "prepare_hapt.py"))


def write_recording(raw, experiment, subject, acc, gyro):
    raw.mkdir(exist_ok=True)
    np.savetxt(raw / f"acc_exp{experiment:02}_user{subject:02}.txt", acc)
    np.savetxt(raw / f"gyro_exp{experiment:02}_user{subject:02}.txt", gyro)


def test_a_synthetic_recording(script, tmp_path):
    time_s = np.arange(700) / 50
    still = np.stack([np.ones(700), np.zeros(700), np.zeros(700)], axis=1)  # gravity along the first axis
    shaking = still + 0.5 * np.sin(2 * np.pi * 2 * time_s)[:, None] * np.array([0, 1, 0])
    write_recording(tmp_path / "RawData", 1, 1, shaking, np.zeros((700, 3)))
    write_recording(tmp_path / "RawData", 2, 2, still, np.full((700, 3), 0.25))
    (tmp_path / "RawData" / "labels.txt").write_text("1 1 1 101 420\n1 1 12 421 500\n2 2 5 1 256\n")
    script["main"](str(tmp_path / "RawData"), str(tmp_path / "data" / "uci-har" / "hapt_windows.npz"))
    har = load("har", tmp_path / "data")
    assert har.y.tolist() == [0] * 4  # 320 samples: starts 0, 64, 128, 192; the transition is too short for a window
    assert har.groups.tolist() == [1] * 4
    assert har.test.y.tolist() == [4] * 3  # subject 2 is of the official test part
    total, body, gyro = har.x[:, :3] / 2, har.x[:, 3:6] / 4, har.test.x[:, 6:] / 2
    assert np.abs(total[:, 0] - 1).max() < 0.01
    assert np.abs(body[:, 0]).max() < 0.01
    assert 0.45 < np.abs(body[:, 1]).max() < 0.55
    assert np.abs(gyro - 0.25).max() < 0.01


@pytest.mark.skipif(not (STREAMS.exists() and WINDOWS.exists()), reason="needs uci-har in FEDMESH_DATA (docs/data.md)")
def test_it_reproduces_the_reference_windows(script, tmp_path):
    streams, reference = np.load(STREAMS), np.load(WINDOWS)
    length, experiment, subject = (streams[key][0] for key in ("length", "experiment", "subject"))
    acc, gyro = streams["acc"][:length] * streams["acc_scale_g"], streams["gyro"][:length] * streams["gyro_scale_rad_s"]
    write_recording(tmp_path / "RawData", experiment, subject, acc, gyro)
    np.savetxt(tmp_path / "RawData" / "labels.txt", streams["labels"], fmt="%d")
    made = script["windows"](tmp_path / "RawData")
    chosen = reference["experiment"] == experiment
    assert np.abs(made["x"].astype(int) - reference["x"][chosen]).max() <= 1  # one unit of rounding
    for key in ("y", "subject", "split", "segment"):
        assert np.array_equal(made[key], reference[key][chosen])


def test_an_empty_folder_is_explained(script, tmp_path):
    (tmp_path / "labels.txt").write_text("1 1 1 101 420\n")
    with pytest.raises(SystemExit, match="no labelled recordings"):
        script["windows"](tmp_path)


def test_without_arguments_it_says_how_it_is_used(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare_hapt.py"])
    with pytest.raises(SystemExit, match=r"HAPT Data Set/RawData"):
        runpy.run_path(str(ROOT / "examples" / "prepare_hapt.py"), run_name="__main__")
