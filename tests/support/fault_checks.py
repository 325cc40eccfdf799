"""What holds after a run on a `faulty_fleet.Rig`, whatever struck it."""

import itertools
from collections import Counter

import numpy as np
from faulty_fleet import Rig, RigDevice, Trained

from fedmesh.client.identities import anchor_path
from fedmesh.client.journal import DeviceJournal
from fedmesh.events import RoundFinished
from fedmesh.fleet.device import JOURNAL
from fedmesh.privacy import Anchor
from fedmesh.privacy.statement import Statement

__all__ = ["check"]


def check(rig: Rig, *, reached: bool = True) -> None:
    """What holds.

    Args:
        reached: whether devices can have heard the end of the run, which is told for 3 s by a coordinator that leaves.

    Raises:
        AssertionError: a promise of docs/reliability.md is broken.
    """
    assert not rig.pending, f"its moment never came: {rig.pending}"
    finished = _rounds(rig)
    for device in rig.devices.values():
        _check_ledger(rig, device)
        if reached:
            _check_left(device)
    assert max(rig.asked.values()) == 1, "a message was trained twice"
    _check_sums(rig, finished)


def _rounds(rig: Rig) -> dict[int, RoundFinished]:
    """Every round was committed once, as far as was told; one that was killed behind its commit told nothing."""
    told = rig.events(RoundFinished)
    assert max(Counter(event.round for event in told).values()) == 1
    assert [entry["round"] for entry in rig.coordinator.result["rounds"]] == list(
        range(1, rig.plan.scenario.rounds + 1)
    )
    return {event.round: event for event in told}


def _check_ledger(rig: Rig, device: RigDevice) -> None:
    charged = {key: count for key, count in rig.charged.items() if key[0] == device.name}
    if not device.ledger.exists():
        assert not charged
        return
    statement = Statement(device.ledger)  # the chain of its entries is verified
    statement.check_contains(Anchor(anchor_path(rig.folder / device.name, device.name)).heads()["example"])
    assert statement.whole().charges == sum(charged.values())
    done = Counter((trained.device, trained.round) for trained in rig.trained)
    for key in {key for key in (*rig.began, *done) if key[0] == device.name}:
        assert done[key] <= rig.charged[key] <= rig.began[key], f"{key}: released, charged, begun"


def _check_left(device: RigDevice) -> None:
    journal = DeviceJournal(device.state / JOURNAL)
    try:
        assert journal.runs() == []
        assert journal.unposted() == []
    finally:
        journal.close()
    left = [
        path.name
        for part in ("in", "out")
        for path in (device.state / "spool" / part).rglob("*")
        if path.is_file() and path.name != "record.cbor"
    ]
    assert not left, f"{device.name}'s spool holds {left}"


def _check_sums(rig: Rig, finished: dict[int, RoundFinished]) -> None:
    """Each good round moved the model by the mean of one training of this round of each of its survivors."""
    begins = {}
    for number in finished:
        weights = [trained.weights for trained in rig.trained if trained.round == number]
        if weights:
            assert all(np.array_equal(weights[0], other) for other in weights), f"round {number} began with two models"
            begins[number] = weights[0]
    for number, event in finished.items():
        if number not in begins or number + 1 not in begins:
            continue
        moved = begins[number + 1] - begins[number]
        if event.failed is not None:
            assert not moved.any()
            continue
        mine = [trained for trained in rig.trained if trained.round == number]
        assert any(np.allclose(moved, mean, atol=1e-6) for mean in _means(mine, event.survivors)), f"round {number}"


def _means(trained: list[Trained], survivors: int):
    """The means over `survivors` different devices."""
    for chosen in itertools.combinations(trained, survivors):
        if len({one.device for one in chosen}) == survivors:
            yield np.mean([one.delta for one in chosen], axis=0)
