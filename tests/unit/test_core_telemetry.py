"""Nothing that runs under fedmesh reports to anybody: ONNX Runtime's telemetry is off before it is loaded."""

import os
import subprocess
import sys


def test_onnx_runtime_is_loaded_without_its_telemetry(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME"), str(tmp_path))
    subprocess.run(
        [sys.executable, "-c", "import fedmesh.inference, onnxruntime"],
        env={**environment, **places},
        check=True,
    )
    assert not list(tmp_path.rglob("*"))  # with telemetry on, it leaves a session file and an identifier of the machine


def test_the_operators_own_choice_stands():
    code = "import fedmesh, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    chosen = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert chosen.stdout == "0\n"
