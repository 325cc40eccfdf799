"""examples/flower_app: a Flower App of our strategy and client, over our grid and under Flower's own simulation."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedmesh import wire
from fedmesh.client.task import Task
from fedmesh.flower import InlineFleet, quiet_flower, run_simulation
from fedmesh.inference import Engine

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower_app"


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[ServerApp, ClientApp]]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    from fedmesh_digits.client_app import app as client_app
    from fedmesh_digits.server_app import app as server_app

    yield server_app, client_app
    for name in [name for name in sys.modules if name.startswith("fedmesh_digits")]:
        del sys.modules[name]


def accuracies(printed: str) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in printed.splitlines() if line.startswith("round ")]


def run_config(out: Path, **overrides: Any) -> dict[str, Any]:
    """What `flwr run` would pass: the app's own values, and ours over them."""
    config = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return {**config, "out": str(out), **overrides}


def test_it_learns_over_our_grid(
    apps: tuple[ServerApp, ClientApp], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server_app, client_app = apps
    out = tmp_path / "model.onnx"
    with quiet_flower():
        run_simulation(server_app, client_app, 5, run_config=run_config(out, devices=5))
    found = accuracies(capsys.readouterr().out)
    assert len(found) == 9
    assert found[-1] > 0.9
    assert found[-1] > found[0] + 0.1
    assert Engine(out) is not None


def test_nothing_of_a_device_but_the_masked_sum_reaches_the_server(
    apps: tuple[ServerApp, ClientApp], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_app, client_app = apps
    replies: list[Message] = []

    def listening(message: Message, context: Context) -> Message:
        replies.append(client_app(message, context))
        return replies[-1]

    config = run_config(tmp_path / "model.onnx", devices=5, **{"num-server-rounds": 2})
    with quiet_flower():
        run_simulation(server_app, client_app, 5, run_config=config, fleet=InlineFleet(listening, 5))
        run_simulation(server_app, client_app, 5, run_config=config, fleet=InlineFleet(listening, 5))  # a second run
    assert len(replies) == 2 * 5 * (6 + 3)  # a hello and five steps, then three of a session that was prepared
    for reply in replies:
        hello = list(reply.content.config_records.get("secagg", []))
        assert hello == ["name"] or {name for r in reply.content.values() for name in r} == {"message"}
        assert set(reply.content) <= {"secagg", "secagg-next"}


def test_a_device_takes_no_seed_of_its_randomness_from_the_server(apps: tuple[ServerApp, ClientApp]) -> None:
    from fedmesh_digits.client_app import trainer

    task = Task("digits", "digits_cnn", (1, 8, 8), 10, training="float", keyed_noise_seed=7)
    assert trainer(wire.dumps(task.to_plain()), 5).task.keyed_noise_seed is None


def test_the_app_is_one_that_flower_accepts() -> None:
    """Flower's own check of an app's pyproject.toml, and both components load as `flwr run` loads them."""
    from flwr.common.config import validate_config
    from flwr.supercore.object_ref import load_app

    config = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    valid, errors, _ = validate_config(config, project_dir=EXAMPLE)
    assert valid, errors
    components = config["tool"]["flwr"]["app"]["components"]
    assert isinstance(load_app(components["serverapp"], ImportError, EXAMPLE), ServerApp)
    assert isinstance(load_app(components["clientapp"], ImportError, EXAMPLE), ClientApp)


FLOWERS_OWN = """
import json, sys
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from fedmesh_digits.client_app import app as client_app
from fedmesh_digits.server_app import app as server_app

configured = ServerApp()

@configured.main()
def main(grid, context):
    context.run_config = json.loads(sys.argv[1])  # what `flwr run` does
    server_app(grid=grid, context=context)

resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
run_simulation(configured, client_app, 5, backend_config=resources)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_it_learns_under_flowers_own_simulation(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Flower's own simulation needs ray: pip install 'fedmesh[ray]'")
    path = os.pathsep.join([str(EXAMPLE), *filter(None, [os.environ.get("PYTHONPATH")])])  # Ray's workers inherit it
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", FLOWERS_OWN, json.dumps(run_config(tmp_path / "model.onnx", devices=5))]
    environment = {**os.environ, **quiet, "PYTHONPATH": path, "XDG_STATE_HOME": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = accuracies(run.stdout)
    assert len(found) == 9
    assert found[-1] > 0.9
