"""What a server may try with Flower messages against devices under secure aggregation: it gets refusals."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import training
from flwr.app import ConfigRecord, Message, RecordDict
from secure_flower import SecureServer

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.identities import open_identity
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.errors import SecAggError
from fedmesh.flower import InlineFleet, Node
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.envelope import fold
from fedmesh.flower.identity import node_id_of
from fedmesh.flower.secure import AHEAD, CURRENT, MAX_ORDER_BYTES, STEPS, Order, attach
from fedmesh.flower.sessions import STATE, kept_in
from fedmesh.secagg import Aggregator
from fedmesh_clients import vision
from fedmesh_clients.secure import terms_of

RANGES = [0.5] * 6
COUNT = 97
"""Examples of a device: a number that shows up nowhere else."""
TASK = training.int8_task(secure_aggregation=True)


def server(folder: Path, task: Task = TASK, nodes: int = 5) -> SecureServer:
    ledgers = folder / "ledgers"
    ledgers.mkdir()
    app = vision.build(
        task, lambda device: training.examples(device, COUNT), homes=SimulatedHomes(ledgers, folder / "identities")
    )
    return SecureServer(InlineFleet(app, nodes), folder / "identities", terms_of(task, Trainer.of(task).layout), RANGES)


def node(of: SecureServer, device: int) -> Node:
    return of.fleet._nodes[node_id_of(device)]


def until(of: SecureServer, step: str, number: int = 1) -> tuple[Aggregator, dict[str, Order]]:
    """A session of which every step before `step` is over, and the orders of that step."""
    session = of.aggregator(of.header(number, training.start()))
    orders = {name: Order("advertise", session.header.to_bytes()) for name in session.header.cohort}
    for earlier in STEPS[: STEPS.index(step)]:
        orders = of.step(number, earlier, session, orders, training.start())
    return session, orders


def ask(of: SecureServer, device: int, step: str, content: RecordDict) -> Message:
    (reply,) = of.grid.send_and_receive([of.message(device, step, content)])
    return reply


def play(of: SecureServer, device: int, step: str, order: Order, number: int = 1) -> Message:
    return ask(of, device, step, of.content(number, step, order, training.start()))


def refusal(reply: Message) -> str:
    assert reply.has_error(), sorted(reply.content)
    assert re.match(r"(SecAggError|DecodeError|ConfigError): ", reply.error.reason), reply.error.reason
    return reply.error.reason


def test_a_device_does_not_answer_in_the_clear(tmp_path: Path) -> None:
    for step in ("advertise", "train"):  # with a session under way as without
        (tmp_path / step).mkdir()
        of = server(tmp_path / step)
        _, orders = until(of, step)
        content = of.content(1, "train", orders["device-0"], training.start())
        del content[CURRENT]
        assert "inside a secure sum only" in refusal(ask(of, 0, "train", content))


def test_a_train_order_without_a_session_is_refused(tmp_path: Path) -> None:
    assert "no session of round 1" in refusal(play(server(tmp_path), 0, "train", Order("train", message=b"shares")))


def other_model(content: RecordDict) -> None:
    content["arrays"] = vector_record("model", training.start() + np.float32(1e-3))


def other_ranges(content: RecordDict) -> None:
    content["config"] = ConfigRecord({"server-round": 1, "delta-ranges": [0.25] * 6})


def other_round(content: RecordDict) -> None:
    content["config"] = ConfigRecord({"server-round": 2, "delta-ranges": RANGES})


def second_config(content: RecordDict) -> None:
    for name in ("arrays", CURRENT):
        content[name] = content.pop(name)
    config = content.pop("config")
    content["a"] = ConfigRecord({"server-round": 1, "delta-ranges": RANGES})
    config["server-round"] = 2
    content["config"] = config


@pytest.mark.parametrize(
    ("tamper", "wanted"),
    [
        (other_model, "another model_hash than what came"),
        (other_ranges, "another scale_hash than what came"),
        (other_round, "no session of round 2"),
        (second_config, "no session of round 2"),
        (lambda content: content.pop("arrays"), "'arrays'"),
        (lambda content: content["config"].pop("delta-ranges"), "delta-ranges"),
        (lambda content: content["config"].update({"delta-ranges": [1] * 6}), "numbers"),
        (lambda content: content["config"].update({"server-round": -1}), "server-round"),
    ],
)
def test_nothing_is_trained_or_paid_for_on_what_the_session_is_not_about(
    tmp_path: Path, tamper: Callable[[RecordDict], None], wanted: str
) -> None:
    of = server(tmp_path, training.int8_task(secure_aggregation=True, dp=training.DP))
    of.tamper = lambda step, device, content: tamper(content) if (step, device) == ("train", 2) else None
    result = of.round(1, training.start())
    assert wanted in of.refusals["train"][2]
    assert "device-2" not in result.survivors
    assert not (tmp_path / "ledgers" / "device-2.ledger").exists()
    assert (tmp_path / "ledgers" / "device-1.ledger").exists()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"threshold": 2}, "threshold 2 of 5"),
        ({"min_cohort": 1}, "sums of 1 inputs"),
        ({"devices": range(3), "threshold": 3, "min_cohort": 3}, "a cohort of 3"),
        ({"ring_bits": 8}, "ring of 8 bits overflows"),
        ({"task": "other"}, "task"),
        ({"length": 7}, "length"),
        ({"weight_cap": 255}, "weight_cap"),
        ({"layout_hash": bytes(32)}, "layout"),
        ({"privacy": {"noise_multiplier": 9.0}}, "announces noise"),
        ({"round": 2}, "round 2 was announced in round 1"),
    ],
)
def test_a_session_with_less_protection_or_about_something_else_is_refused(
    tmp_path: Path, changes: dict[str, object], wanted: str
) -> None:
    of = server(tmp_path)
    header = (
        of.header(**{"number": 1, "weights": training.start(), **changes})
        if "round" not in changes
        else (of.header(2, training.start()))
    )
    assert wanted in refusal(play(of, 0, "advertise", Order("advertise", header.to_bytes())))
    assert not of.fleet.states()


def test_a_stranger_in_the_cohort_is_refused(tmp_path: Path) -> None:
    of = server(tmp_path)
    header = of.header(1, training.start(), cohort=("device-0", "device-1", "device-2", "device-3", "sybil"))
    assert "'sybil'" in refusal(play(of, 0, "advertise", Order("advertise", header.to_bytes())))


@pytest.mark.parametrize("step", STEPS)
def test_a_message_that_was_answered_is_refused(tmp_path: Path, step: str) -> None:
    of = server(tmp_path)
    _, orders = until(of, step)
    assert play(of, 0, step, orders["device-0"]).has_content()
    before = node(of, 0).state()
    refusal(play(of, 0, step, orders["device-0"]))
    assert node(of, 0).state() == before


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        ("advertise", "only a later attempt"),
        ("train", "one leaves|left|masked"),
        ("unmask", "asked for again"),
    ],
)
def test_an_old_context_does_not_make_a_device_say_it_again(tmp_path: Path, step: str, wanted: str) -> None:
    of = server(tmp_path)
    _, orders = until(of, step)
    before = node(of, 0).state() if step != "advertise" else b""
    assert play(of, 0, step, orders["device-0"]).has_content()
    node(of, 0).restore(before)
    assert re.search(wanted, refusal(play(of, 0, step, orders["device-0"])))


def test_an_old_context_does_not_make_a_device_sign_another_set(tmp_path: Path) -> None:
    of = server(tmp_path)
    session, orders = until(of, "train")
    masked = {d: play(of, d, "train", orders[f"device-{d}"]).content[CURRENT]["message"].numpy() for d in range(5)}
    twin = of.aggregator(session.header)
    twin.__dict__.update({name: value for name, value in session.__dict__.items() if name != "_total"})
    twin._total, twin._heard = session._total.copy(), {}
    everybody = survivors = None
    for device in range(5):
        everybody = session.handle(f"device-{device}", masked[device].tobytes()) or everybody
    for device in range(4):
        survivors = twin.handle(f"device-{device}", masked[device].tobytes())
    survivors = twin.advance()
    assert everybody
    before = node(of, 0).state()
    assert play(of, 0, "sign", Order("sign", message=dict(everybody)["device-0"])).has_content()
    node(of, 0).restore(before)
    assert "second survivor set" in refusal(play(of, 0, "sign", Order("sign", message=dict(survivors)["device-0"])))


def test_a_message_of_an_earlier_round_is_refused(tmp_path: Path) -> None:
    of = server(tmp_path)
    _, old = until(of, "share", 1)
    until(of, "share", 2)
    assert "another session" in refusal(play(of, 0, "share", old["device-0"], 2))


def test_a_message_for_another_device_is_refused(tmp_path: Path) -> None:
    of = server(tmp_path)
    _, orders = until(of, "train")
    refusal(play(of, 0, "train", orders["device-1"]))


def test_a_context_is_of_no_use_to_another_device(tmp_path: Path) -> None:
    of = server(tmp_path)
    _, orders = until(of, "train")
    node(of, 1).context(1).state[STATE] = node(of, 0).context(1).state[STATE]
    refusal(play(of, 1, "train", orders["device-0"]))


@pytest.mark.parametrize("step", STEPS[1:])
@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 100, bytes(MAX_ORDER_BYTES), bytes(MAX_ORDER_BYTES + 1)])
def test_noise_is_refused_and_changes_nothing(tmp_path: Path, step: str, data: bytes) -> None:
    of = server(tmp_path)
    _, orders = until(of, step)
    before = node(of, 0).state()
    refusal(play(of, 0, step, Order(step, message=data)))
    assert node(of, 0).state() == before
    assert play(of, 0, step, orders["device-0"]).has_content()


@pytest.mark.parametrize("name", [CURRENT, AHEAD])
def test_a_step_is_not_smuggled_into_another_message(tmp_path: Path, name: str) -> None:
    of = server(tmp_path)
    _, orders = until(of, "train")
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    attach(content, orders["device-0"], name)
    assert "wanted one of" in refusal(ask(of, 0, "sign", content))


def test_an_empty_question_is_refused(tmp_path: Path) -> None:
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    assert "asks for nothing" in refusal(ask(server(tmp_path), 0, "sign", content))


def test_a_session_of_a_later_round_is_prepared_only_once_at_a_time(tmp_path: Path) -> None:
    """However many rounds a server announces, a device keeps two sessions at most."""
    of = server(tmp_path)
    until(of, "share", 1)
    for number in (2, 3, 9):
        content = RecordDict({"config": ConfigRecord({"server-round": 1})})
        attach(content, Order("advertise", of.header(number, None).to_bytes()), AHEAD)
        assert list(ask(of, 0, "sign", content).content) == [AHEAD]
    assert list(kept_in(node(of, 0).context(1))) == [1, 9]


def test_what_leaves_a_device_says_nothing_of_its_data_or_its_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Replies, error replies, logs and the states that lie in a Context between the steps."""
    caplog.set_level(logging.DEBUG)
    of = server(tmp_path, training.int8_task(secure_aggregation=True, weighting="examples", weight_cap=50))
    states = []

    def tamper(step: str, device: int, content: RecordDict) -> None:
        states.extend(of.fleet.states().values())
        if (step, device) == ("train", 4):
            other_model(content)

    of.tamper = tamper
    result = of.round(1, training.start())
    assert result.weight == 4 * 50
    said = [str(reply.error.reason) for reply in of.replies if reply.has_error()]
    assert said
    assert not any(re.search(rf"\b({COUNT}|50)\b", text) for text in [*said, caplog.text])
    assert all(list(reply.content) == [CURRENT] for reply in of.replies if reply.has_content())
    private = [open_identity(tmp_path / "identities", f"device-{d}").private_bytes() for d in range(5)]
    carried = b"".join(b"".join(map(bytes, (e.meta, *e.buffers))) for e in map(fold, of.replies)) + b"".join(states)
    assert not any(key in carried for key in private)
    packets = [reply.content[CURRENT]["message"].numpy() for reply in of.replies if reply.has_content()]
    masked = [packet for packet in packets if len(packet) > of.terms.length]
    for packet in masked:  # forty bits an element, of which an input fills fourteen at most
        assert len(packet) >= 5 * of.terms.length
        counts = np.bincount(packet[-5 * of.terms.length + 200 :], minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # chi-square, 255 degrees of freedom: p < 1e-8
    assert len(masked) == 4


def test_after_the_last_step_there_is_nothing_left_to_take(tmp_path: Path) -> None:
    of = server(tmp_path)
    _, orders = until(of, "unmask")
    assert len(of.fleet.states()) == 5
    for device in range(5):
        assert play(of, device, "unmask", orders[f"device-{device}"]).has_content()
    assert not of.fleet.states()
    assert "no session of round 1" in refusal(play(of, 0, "unmask", orders["device-0"]))


def test_a_round_beyond_the_tolerance_is_given_up_by_name(tmp_path: Path) -> None:
    of = server(tmp_path)
    of.lose = {"share": [0], "sign": [1]}
    with pytest.raises(SecAggError) as caught:
        of.round(1, training.start())
    assert caught.value.code == "threshold"
