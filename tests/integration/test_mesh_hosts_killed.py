"""Whoever coordinates is killed (kill -9) at each step of a round: real processes, each on a machine of its own."""

import json
import subprocess
import sys

import pytest
from mesh_hosts import until
from network_namespaces import Lan, require_namespaces

from fedmesh.coordinator.groups import SMALLEST_GROUP
from fedmesh.testing.mesh_peers import MeshPeers

require_namespaces()

pytestmark = pytest.mark.exhaustive

NAMES = ("anna", "bert", "cleo", "dora", "emil", "fred")
STEPS = ("advertise", "share", "train", "sign", "unmask")
PATIENCE_S = 240.0


@pytest.fixture
def peers(tmp_path):
    with Lan() as lan, MeshPeers(tmp_path, *NAMES, lan=lan) as made:
        made.issuer.grant("anna", "runs")
        made.spread(NAMES)
        for number, name in enumerate(NAMES):
            data = f'[data]\nkind = "dataset"\nname = "digits"\npartition = {number}\nof = {len(NAMES)}\n'
            made.configure(name, more=data)
        made.start()
        until(lambda: all(set(made.view(name)) >= set(NAMES) for name in NAMES), made, PATIENCE_S)
        yield made


def results(peers, name, number):
    """What this member took for the result of a round, over all its lives."""
    told = [event for event in peers.told(name, "RoundCertified") if event["round"] == number]
    return {json.dumps([event["attempt"], event["names"], event["is_void"]]) for event in told}


def leader(peers, number, step):
    """Who coordinates the round, once it has begun this step of it."""
    for name in NAMES:
        told = [(event["round"], event["stage"]) for event in peers.told(name, "StageStarted")]
        if (number, step) in told:
            return name
    return None


def test_a_coordinator_killed_at_any_step_costs_nobody_the_round(peers):
    options = ["--mesh", "--config", peers.folder / "anna.toml", "--rounds", str(len(STEPS) + 1)]
    options += ["--set", "model.pretrain_epochs=3", "--set", "privacy.steps=4", "--step-s", "15"]
    command = [sys.executable, "-m", "fedmesh", "run", "start", "digits", *map(str, options)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    for number, step in enumerate(STEPS, 1):
        until(lambda number=number, step=step: leader(peers, number, step), peers, PATIENCE_S)
        killed = leader(peers, number, step)
        peers.kill(killed)
        others = [name for name in NAMES if name != killed]
        until(lambda number=number, others=others: all(results(peers, name, number) for name in others), peers, 300.0)
        peers.start(killed)
        until(lambda number=number, killed=killed: results(peers, killed, number), peers, PATIENCE_S)
        agreed = {result for name in NAMES for result in results(peers, name, number)}
        assert len(agreed) == 1, (step, agreed)
        _, names, is_void = json.loads(agreed.pop())
        assert not is_void, step
        assert len(names.split(",")) >= SMALLEST_GROUP, step
    last = len(STEPS) + 1
    until(lambda: all(results(peers, name, last) for name in NAMES), peers, 300.0)
    for name in NAMES:
        ledger = peers.folder / f"state-{name}/ledgers/{name}.ledger"
        told = subprocess.run(
            [
                sys.executable,
                "-m",
                "fedmesh",
                "ledger",
                "verify",
                ledger,
                "--anchor",
                peers.folder / name / f"{name}.anchor",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
