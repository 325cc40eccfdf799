"""What came of it: one model everywhere, which reads digits, and ledgers that say what was spent."""

import json
import time
from typing import Any

from answers import DIGITS, right_over_http
from mesh import TIERS
from stage import PATIENCE_S, Stage


def round_line(fact: dict[str, Any]) -> str:
    """A round in a line."""
    told = f"{fact['survivors']} of {fact['clients']} devices in the sum, accuracy {fact['accuracy_int8']:.3f}"
    return f"round {fact['round']}: {fact['failed'] or told}"


def show(stage: Stage, serving: int) -> None:
    """All of it; raises AssertionError for what is not as it should be."""
    result = json.loads(stage.fedmesh("runs", "show", "digits-fleet", "--config", "coordinator.toml", "--json"))
    final = result["final"]
    assert final["max_abs_logit_difference"] == 0.0, "what runs is not what was trained"
    trained = {row["id"]: row for row in result["devices"]}
    for name, tier in TIERS.items():
        wait_for_model(stage, name, final["sha256"])
        told = json.loads(stage.fedmesh("client", "status", f"{name}.toml", "--json"))["privacy"]["example"]
        if name in trained:
            stage.fedmesh(
                "ledger", "verify", f"{name}/state/ledgers/{name}.ledger", "--anchor", f"{name}/{name}.anchor"
            )
            assert 0 < told["charges"] <= len(result["rounds"]), name
            assert told["spent"] <= told["budget"], name
        print(f"  {name:9} {tier:9} has the last model; {told['charges']} rounds paid, epsilon {told['spent']:.2f}")
    right = right_over_http(serving)
    assert right > 0.8 * DIGITS, f"{right} of {DIGITS} digits are right: no better than before"
    print(f"the device that only answers reads {right} of {DIGITS} real digits right, over HTTP")


def wait_for_model(stage: Stage, name: str, sha256: str) -> None:
    """Returns when what runs on a device is, byte for byte, what the coordinator checked."""
    begun, folder = time.monotonic(), f"{name}/state/registry"
    while time.monotonic() - begun < PATIENCE_S:
        listed = json.loads(stage.fedmesh("model", "list", folder, "--json"))
        running = [row for row in listed["versions"] if row["state"].startswith("runs")]
        if any(row["variants"][0]["sha256"] == sha256 for row in running):
            stage.fedmesh("model", "verify", folder)
            return
        time.sleep(1)
    raise AssertionError(f"{name} does not have the model of the last round: look at {name}.log")
