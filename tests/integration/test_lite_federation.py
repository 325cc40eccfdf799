"""Full and lite devices in one federation on real digits: the right sum, in one process and in many."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from lite_models import cut
from secure_flower import SecureServer
from small_runs import DIGITS, SMALL, arguments, simulate, small_digits

from fedmesh.cli import main
from fedmesh.client.assignment import Assignment
from fedmesh.client.head_trainer import HeadTrainer
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.coordinator import Journal
from fedmesh.errors import ConfigError
from fedmesh.federation import datasets
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.tiers import lite_devices
from fedmesh.flower import InlineFleet
from fedmesh.flower.arrays import vector
from fedmesh.flower.backbone import DIGEST, attach_backbone
from fedmesh.flower.secure import model_hash
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.simulation.tiers import TieredApp
from fedmesh.types import Examples
from fedmesh_clients import lite, vision
from fedmesh_clients.secure import terms_of

DEVICES, LITE = 5, {1, 3}
RANGES = [0.25] * 6


def devices() -> tuple[Examples, ...]:
    scenario = small_digits(partition__clients=DEVICES)
    return tuple(part[:40] for part in datasets.split_as(datasets.load("digits", None), scenario).devices)


def secure_task(**changes: object) -> Task:
    return cut().with_task(secure_aggregation=True, **changes)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def serve(task: Task, folder: Path, backbone_for: Callable[[int], tuple[bytes, bytes | None]]) -> SecureServer:
    """`backbone_for`: device -> the digest that it is told, and the backbone that it gets."""
    parts, identities, ledgers = devices(), folder / "identities", folder / "ledgers"
    ledgers.mkdir()
    homes = SimulatedHomes(ledgers, identities)
    app = TieredApp(
        vision.build(task, parts.__getitem__, homes=homes), lite.build(task, parts.__getitem__, homes=homes), LITE
    )

    def attach(step: str, device: int, content: RecordDict) -> None:
        if step == "train":
            told, backbone = backbone_for(device)
            content["config"][DIGEST] = told
            if backbone is not None:
                attach_backbone(content, backbone)

    terms = terms_of(task, Trainer.of(task).layout)
    return SecureServer(InlineFleet(app, DEVICES), identities, terms, RANGES, tamper=attach)


def codes(task: Task, device: int) -> Any:
    """What the device quantizes, int64 [P], without anything around it."""
    trainer = HeadTrainer(task) if device in LITE else Trainer.of(task)
    asked = Assignment(1, device, cut().weights, RANGES, backbone=cut().backbone if device in LITE else None)
    packet = trainer.train(asked, devices()[device]).packet
    codec = DeltaCodec(trainer.layout, task.bits, np.asarray(RANGES, np.float32))
    return codec.codes(packet, max_bytes=codec.packet_bytes).astype(np.int64)


def test_the_secure_sum_is_that_of_both_tiers(tmp_path: Path) -> None:
    task, made = secure_task(), cut()
    told = digest(made.backbone)
    server = serve(task, tmp_path, lambda device: (told, made.backbone if device in LITE else None))
    result = server.round(1, made.weights, model_hash=model_hash(made.weights, told))
    assert not any(server.refusals.values()), server.refusals
    expected = np.sum([codes(task, device) for device in range(DEVICES)], axis=0)
    assert result.weight == DEVICES
    assert result.total[: len(expected)].tolist() == expected.tolist()
    head = task.head
    assert head is not None
    for device in LITE:
        parts = head.layout.unflatten(codes(task, device))
        assert {name for name, part in parts.items() if part.any()} == {head.weight, head.bias}


def test_a_device_that_gets_another_backbone_than_the_others_answers_nothing(tmp_path: Path) -> None:
    """The server says the right digest to all but one, and gives that one a backbone of its choice."""
    made, other = cut(), cut("digits_cnn", "free").backbone
    told = digest(made.backbone)

    def backbone_for(device: int) -> tuple[bytes, bytes | None]:
        if device == 3:
            return digest(other), other
        return told, made.backbone if device in LITE else None

    server = serve(secure_task(), tmp_path, backbone_for)
    result = server.round(1, made.weights, model_hash=model_hash(made.weights, told))
    assert "model_hash" in server.refusals["train"][3]
    assert len(result.survivors) == DEVICES - 1


@pytest.mark.parametrize(
    ("device", "told", "backbone", "said"),
    [
        (1, "right", None, "without a backbone"),
        (1, "right", b"another", "SHA-256"),
        (0, "right", "ours", "no lite device"),
        (0, "none", None, "model_hash"),
        (1, "right", "oversized", "at most 16777216 bytes"),
    ],
    ids=["missing", "swapped", "to a full device", "digest withheld", "oversized"],
)
def test_what_a_device_refuses(tmp_path: Path, device: int, told: str, backbone: bytes | str | None, said: str) -> None:
    made = cut()
    right = digest(made.backbone)
    given = {"ours": made.backbone, "oversized": bytes((1 << 24) + 5000)}.get(backbone, backbone)  # type: ignore[call-overload, arg-type]

    def backbone_for(asked: int) -> tuple[bytes, bytes | None]:
        if asked == device:
            return (right if told == "right" else b""), given  # type: ignore[return-value]
        return right, made.backbone if asked in LITE else None

    server = serve(secure_task(), tmp_path, backbone_for)
    result = server.round(1, made.weights, model_hash=model_hash(made.weights, right))
    assert list(server.refusals["train"]) == [device]
    assert re.search(said, server.refusals["train"][device]), server.refusals["train"]
    assert len(result.survivors) == DEVICES - 1


def learned(result: dict[str, Any]) -> list[Any]:
    keys = ("accuracy_int8", "loss", "epsilon", "survivors")
    return [result["final"]["sha256"], [[row[key] for key in keys] for row in result["rounds"]]]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"rounds": 1}, id="private"),
        pytest.param({"privacy__enabled": False, "client__batching": "always"}, id="cohorts", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_both_tiers_is_the_same_with_and_without_secure_aggregation(
    overrides: dict[str, Any], tmp_path: Path
) -> None:
    overrides = {"client__lite_fraction": 0.5, "rounds": 2, **overrides}
    secure = simulate(small_digits(**overrides), tmp_path / "secure", workers=2)
    plain = simulate(small_digits(**overrides, secure_aggregation__enabled=False), tmp_path / "plain", workers=1)
    assert learned(secure) == learned(plain)
    tiers = [device["tier"] for device in secure["devices"]]
    assert [device for device, tier in enumerate(tiers) if tier == "lite"] == sorted(
        lite_devices(small_digits(**overrides), 4)
    )
    assert tiers.count("lite") == 2
    assert not secure["failures"]
    epsilons = {device["epsilon"] for device in secure["devices"]}
    assert len(epsilons) == 1  # a lite device pays what the others pay


def test_of_lite_devices_alone_the_backbone_stays_what_it_was(tmp_path: Path) -> None:
    result = simulate(
        small_digits(client__lite_fraction=1.0, privacy__enabled=False, rounds=2), tmp_path / "run", workers=2
    )
    start = RunDirectory.open(tmp_path / "run").load_start()
    assert start is not None
    with Journal(tmp_path / "run" / "journal.sqlite3") as journal:
        last = journal.last()
    assert last is not None
    moved = vector(last.arrays, "model", dtype="float32", max_bytes=4 * start.weights.size) - start.weights
    outside = moved[: -(10 * 384 + 10)]
    assert not outside.any()
    assert moved[-3850:].any()
    assert result["final"]["accuracy_int8"] > result["start"]["accuracy_int8"]
    down = [row["bytes_down"] for row in result["rounds"]]
    assert min(down) > 4 * start.weights.size + 3000  # the backbone comes beside the weights


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"privacy__mode": "shared"}, "privacy.mode = 'shared'.*linear_head"),
        ({"privacy__mode": "client"}, "privacy.mode = 'client'"),
        ({"privacy__mode": "central"}, "privacy.mode = 'central'"),
        ({"quantization__training": "float"}, "another function"),
        ({"client__name": "lite"}, "leave one of the two out"),
        ({"client__lite_fraction": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_lite_devices_cannot_take_part_in_is_refused_when_it_is_planned(
    overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        small_digits(**{"client__lite_fraction": 0.5, **overrides})


def test_lite_devices_are_drawn_by_the_seed() -> None:
    def drawn(fraction: float, seed: int = 1, count: int = 20) -> frozenset[int]:
        overrides = {**SMALL, "client.lite_fraction": fraction, "seed": seed}
        return lite_devices(Scenario.load(DIGITS, overrides), count)

    assert drawn(0.0) == frozenset()
    assert [len(drawn(fraction)) for fraction in (0.001, 0.3, 0.5, 1.0)] == [1, 6, 10, 20]
    assert drawn(0.5) == drawn(0.5) != drawn(0.5, seed=2)
    assert drawn(1.0) == frozenset(range(20))


def test_a_refusal_reaches_whoever_runs_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "run", client__lite_fraction=0.5, privacy__mode="shared")) == 2
    assert "client.lite_fraction with privacy.mode = 'shared'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
