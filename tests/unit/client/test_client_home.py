"""Where an enrolled device keeps what it is: its own ledgers under its own budget, whatever number its Context has."""

from dataclasses import replace
from pathlib import Path

import pytest
import training
from meshes import NOW, Mesh

from fedmesh.client.budgets import check_budgets
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.enrolling import begin_enrolment
from fedmesh.client.home import SimulatedHomes
from fedmesh.errors import BudgetError, ConfigError, LedgerError
from fedmesh.identity import Membership
from fedmesh.privacy.settings import Budget
from fedmesh.privacy.statement import Statement
from fedmesh_clients import vision

WHOLE = {"example": Budget("example", 8.0, 1e-5), "client": Budget("client", 4.0, 1e-5)}
TASK = Budget("example", 3.0, 1e-5)


def enrolled(mesh: Mesh, name: str) -> Membership:
    """A device that was enrolled as the command does it."""
    token = mesh.token(name)
    enrolment, hello = begin_enrolment(mesh.folder / name, token), mesh.issuer.hello()
    return enrolment.finish(
        mesh.issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, NOW), NOW
    )


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def home(mesh: Mesh, **changes: object) -> EnrolledHome:
    state = mesh.folder / "state"
    state.mkdir(exist_ok=True)
    return EnrolledHome(mesh.folder / "device-1", state, **{"budgets": WHOLE, **changes})  # type: ignore[arg-type]


def test_it_is_the_device_that_was_enrolled(mesh):
    membership = enrolled(mesh, "device-1")
    member = home(mesh).member(0)
    assert member == home(mesh).member(17)
    assert member.name == "device-1"
    assert member.identity.public == membership.roster.keys["device-1"] == member.roster.key("device-1")
    assert member.store_path.parent == mesh.folder / "state"


def test_the_roster_is_read_anew_when_it_has_changed(mesh):
    membership = enrolled(mesh, "device-1")
    place = home(mesh)
    first = place.member(0)
    assert place.member(0) is first
    enrolled(mesh, "device-2")
    roster, _ = mesh.issuer.lists(NOW)
    assert membership.accept(NOW, roster=roster)
    assert "device-2" not in first.roster
    assert "device-2" in place.member(0).roster


def test_a_task_is_charged_within_its_budget_and_the_devices(mesh):
    enrolled(mesh, "device-1")
    place, event = home(mesh), training.DP.event("digits/round-1")
    with place.ledger(0, "digits", TASK) as ledger:
        ledger.charge(event)
    statement = Statement(mesh.folder / "state" / "ledgers" / "device-1.ledger")
    assert (statement.opening.epsilon, statement.opening.level) == (8.0, "example")
    assert [task.budget for task in statement.tasks()] == [3.0]
    with pytest.raises(BudgetError, match="task 'digits'"):
        charge(place, "digits", TASK)
    with pytest.raises(ConfigError, match="not changed on the way"):
        charge(place, "digits", Budget("example", 7.0, 1e-5))
    generous = Budget("example", 100.0, 1e-5)  # a coordinator can ask for more, and does not get it
    with pytest.raises(BudgetError, match="epsilon 8 "):
        charge(place, "another", generous)


def charge(place: EnrolledHome, task: str, budget: Budget) -> None:
    """Until the budget is spent."""
    for number in range(1000):
        with place.ledger(0, task, budget) as ledger:
            ledger.charge(training.DP.event(f"{task}/round-{number}"))


def test_the_levels_have_a_ledger_each(mesh):
    enrolled(mesh, "device-1")
    for budget in (TASK, Budget("client", 2.0, 1e-5)):
        with home(mesh).ledger(0, "task", budget):
            pass
    names = sorted(path.name for path in (mesh.folder / "state" / "ledgers").iterdir())
    assert names == ["device-1.client.ledger", "device-1.ledger"]


def test_a_ledger_that_was_taken_away_is_missed(mesh):
    enrolled(mesh, "device-1")
    with home(mesh).ledger(0, "digits", TASK) as ledger:
        ledger.charge(training.DP.event("digits/round-1"))
    (mesh.folder / "state" / "ledgers" / "device-1.ledger").unlink()
    with pytest.raises(LedgerError, match="is missing"), home(mesh).ledger(0, "digits", TASK):
        pass


def test_nobody_is_enrolled_in_an_empty_folder(mesh):
    with pytest.raises(ConfigError, match="run fedmesh enroll"):
        home(mesh)


def test_a_seed_for_the_noise_is_for_simulations(mesh):
    enrolled(mesh, "device-1")
    private = training.task(dp=training.DP)
    with pytest.raises(ConfigError, match="can subtract the noise"):
        vision.build(private, training.examples, homes=home(mesh))
    vision.build(private.as_deployed(), training.examples, homes=home(mesh))


def test_a_simulation_says_what_is_missing():
    SimulatedHomes().check("digits", private=False, secure=False)
    with pytest.raises(ConfigError, match="where its ledgers"):
        SimulatedHomes().check("digits", private=True, secure=False)
    with pytest.raises(ConfigError, match="where its identities"):
        SimulatedHomes().check("digits", private=False, secure=True)


def test_whether_another_round_is_affordable_is_told_without_touching_the_ledger(mesh):
    enrolled(mesh, "device-1")
    place, task = home(mesh), training.task(name="digits", dp=training.DP)
    path = mesh.folder / "state" / "ledgers" / "device-1.ledger"
    assert place.affords(task)
    assert not path.exists()
    generous = replace(task, dp=replace(training.DP, epsilon=8.1))
    assert not place.affords(generous)
    with place.ledger(0, "digits", Budget("example", 8.0, 1e-5)) as ledger:
        ledger.charge(training.DP.event("digits/round-1"))
        assert place.affords(task)  # while it is held
    with pytest.raises(BudgetError):
        charge(place, "digits", Budget("example", 8.0, 1e-5))
    before = path.read_bytes()
    assert not place.affords(task)
    assert not place.affords(replace(task, name="another"))  # the device's own budget is spent
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        place.affords(task)


def test_a_budget_that_the_task_had_is_not_changed(mesh):
    enrolled(mesh, "device-1")
    place, task = home(mesh), training.task(name="digits", dp=training.DP)
    with place.ledger(0, "digits", TASK):
        pass
    assert not place.affords(task)  # epsilon 8, it had 3


def test_another_budget_in_the_configuration_is_found_at_the_start(mesh):
    enrolled(mesh, "device-1")
    with home(mesh).ledger(0, "digits", TASK):
        pass
    state = mesh.folder / "state"
    check_budgets(state, "device-1", WHOLE)
    other = {**WHOLE, "example": Budget("example", 9.0, 1e-5)}
    with pytest.raises(ConfigError, match="Put the first one back"):
        check_budgets(state, "device-1", other)
