"""Enrolled devices in a session of secure aggregation that their coordinator leads, and nobody else."""

import time
from pathlib import Path

import heads
import pytest
from device_fleet import enrolled
from meshes import Mesh
from secure_flower import SecureServer

from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.enrolling import pinned_roster
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.policy import budgets_of, floor_of
from fedmesh.configuration import ClientConfig
from fedmesh.errors import SecAggError
from fedmesh.flower import InlineFleet
from fedmesh.privacy.statement import Statement
from fedmesh.secagg import Identity
from fedmesh_clients import lite
from fedmesh_clients.secure import terms_of

DEVICES = 5
TASK = heads.summed_task("example").as_deployed()


class Street:
    """Enrolled homes beside each other, told apart by number, for one client app in one process."""

    simulated = False

    def __init__(self, homes: list[EnrolledHome]) -> None:
        self.homes, self.floor = homes, homes[0].floor

    def check(self, name: str, *, private: bool, secure: bool) -> None:
        for home in self.homes:
            home.check(name, private=private, secure=secure)

    def member(self, device: int):
        return self.homes[device].member(device)

    def ledger(self, device: int, *arguments):
        return self.homes[device].ledger(device, *arguments)


def server(folder: Path, leader: str) -> SecureServer:
    mesh = Mesh(folder, begun=time.time() - 60)
    coordinator = enrolled(mesh, "coordinator")
    members = [enrolled(mesh, f"device-{number}") for number in range(DEVICES)]
    roster, _ = mesh.issuer.lists(mesh.begun)
    homes = []
    for member in (coordinator, *members):
        member.accept(mesh.begun, roster=roster)
    for member in members:
        tables = {
            "identity": {"folder": member.name.id},
            "broker": {"host": "localhost"},
            "state": {"folder": f"state-{member.name.id}"},
            "data": {"kind": "npz", "path": "data.npz"},
            "privacy": {"example_epsilon": 100.0},
        }
        config = ClientConfig.parse(tables, source="a test", folder=folder)
        config.state.folder.mkdir()
        home = EnrolledHome(
            config.identity.folder, config.state.folder, budgets=budgets_of(config), floor=floor_of(config, leader)
        )
        homes.append(home)
    street = Street(homes)
    app = lite.build(TASK, heads.examples, homes=street)  # type: ignore[arg-type]
    terms = terms_of(TASK, LiteTrainer(TASK).layout)
    made = SecureServer(InlineFleet(app, DEVICES), folder / "simulated", terms, [0.3])
    made.roster, made.identity = pinned_roster(coordinator), Identity(coordinator.signing_key())
    return made


def header(of: SecureServer) -> dict[str, int]:
    assert of.terms.summed is not None
    return {"ring_bits": of.terms.summed.bits}


def test_enrolled_devices_add_up_and_pay(tmp_path):
    made = server(tmp_path, "coordinator")
    result = made.round(1, heads.start(), **header(made))
    assert len(result.survivors) == DEVICES
    for number in range(DEVICES):
        ledger = tmp_path / f"state-device-{number}" / "ledgers" / f"device-{number}.ledger"
        assert Statement(ledger).whole().charges == 1
        assert (tmp_path / f"state-device-{number}" / f"device-{number}.sqlite").exists()


def test_a_session_that_another_member_leads_is_refused(tmp_path):
    made = server(tmp_path, "another")
    with pytest.raises(SecAggError):
        made.round(1, heads.start(), **header(made))
    assert len(made.refusals["share"]) == DEVICES
    assert all("should have" in text for text in made.refusals["share"].values())
