"""The product's client apps under secure aggregation: the right sum over those that are left, and nothing else."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import training
from flwr.app import Context, Message, RecordDict
from secure_flower import SecureServer, overheard

from fedmesh.client.assignment import Assignment
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.errors import ConfigError, SecAggError
from fedmesh.flower import InlineFleet
from fedmesh.flower.identity import node_id_of
from fedmesh.flower.secure import AHEAD, QUERY, STEPS, Order, answer_in, attach, hello, name_in
from fedmesh.flower.sessions import kept_in
from fedmesh.privacy import FileLedger
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.secagg import MetricCodec, Policy, SumResult
from fedmesh.types import Layout, PrivacyEvent
from fedmesh_clients import vision
from fedmesh_clients.secure import HomeCredentials, partition_in, terms_of

RANGES = [0.5] * 6
DEVICES = 5


def secure_task(**changes: object) -> Task:
    return training.int8_task(secure_aggregation=True, **changes)


def examples(device: int) -> training.Examples:
    return training.examples(device, 3 + 4 * device)


def serve(
    task: Task, folder: Path, nodes: int = DEVICES, source: Callable[[int], training.Examples] = examples
) -> SecureServer:
    ledgers = folder / "ledgers"
    ledgers.mkdir(exist_ok=True)
    app = vision.build(task, source, homes=SimulatedHomes(ledgers, folder / "identities"))
    terms = terms_of(task, Trainer.of(task).layout)
    return SecureServer(InlineFleet(app, nodes), folder / "identities", terms, RANGES)


class Free:
    """A ledger that lets everything pass."""

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        pass

    def epsilon(self, delta: float) -> float:
        return 0.0


def codes_of(task: Task, device: int, number: int) -> np.ndarray:
    """What the device quantizes, int64 [P]: the same training without anything around it."""
    trainer = Trainer.of(task)
    assignment = Assignment(number, device, training.start(), RANGES)
    packet = trainer.train(assignment, examples(device), ledger=Free()).packet
    codec = DeltaCodec(trainer.layout, task.bits, np.asarray(RANGES, np.float32))
    return codec.codes(packet, max_bytes=codec.packet_bytes).astype(np.int64)


def metrics_in(task: Task, result: SumResult) -> dict[str, float]:
    codec = MetricCodec(task.reported, task.bits)
    return codec.decode(result.total[len(result.total) - codec.length :], result.weight)


def numbers(result: SumResult) -> list[int]:
    return [int(name.rpartition("-")[2]) for name in result.survivors]


def test_the_sum_is_that_of_the_devices_codes(tmp_path: Path) -> None:
    task = secure_task()
    result = serve(task, tmp_path).round(1, training.start())
    codes = [codes_of(task, device, 1) for device in range(DEVICES)]
    assert result.total[: len(codes[0])].tolist() == np.sum(codes, axis=0).tolist()
    assert result.weight == DEVICES
    assert metrics_in(task, result)["examples"] == np.mean([len(examples(d)) for d in range(DEVICES)])


def test_devices_weigh_their_examples_up_to_the_cap(tmp_path: Path) -> None:
    task = secure_task(weighting="examples", weight_cap=10)
    result = serve(task, tmp_path).round(1, training.start())
    weights = [min(len(examples(device)), 10) for device in range(DEVICES)]
    assert result.weight == sum(weights)
    codes = np.sum([w * codes_of(task, d, 1) for d, w in enumerate(weights)], axis=0)
    assert result.total[: len(codes)].tolist() == codes.tolist()
    means = metrics_in(task, result)
    assert means["examples"] == pytest.approx(np.average([len(examples(d)) for d in range(DEVICES)], weights=weights))
    assert 1 < means["loss"] < 5


@pytest.mark.parametrize("step", STEPS)
def test_a_device_may_be_lost_at_any_step(tmp_path: Path, step: str) -> None:
    task = secure_task()
    server = serve(task, tmp_path, nodes=7)
    server.lose = {step: [0, 5]}
    result = server.round(1, training.start())
    left = [1, 2, 3, 4, 6] if step in {"advertise", "share", "train"} else list(range(7))
    assert numbers(result) == left
    codes = np.sum([codes_of(task, device, 1) for device in left], axis=0)
    assert result.total[: len(codes)].tolist() == codes.tolist()
    server.lose = {}
    assert numbers(server.round(2, training.start())) == list(range(7))


def test_a_private_device_pays_and_is_summed_without_metrics(tmp_path: Path) -> None:
    task = secure_task(dp=training.DP)
    assert task.reported == ()
    server = serve(task, tmp_path)
    result = server.round(1, training.start())
    assert result.total.tolist() == np.sum([codes_of(task, d, 1) for d in range(DEVICES)], axis=0).tolist()
    with FileLedger(tmp_path / "ledgers" / "device-2.ledger", epsilon=8.0, delta=1e-5) as ledger:
        once = ledger.epsilon(1e-5)
    assert once > 0
    server.round(2, training.start())
    with FileLedger(tmp_path / "ledgers" / "device-2.ledger", epsilon=8.0, delta=1e-5) as ledger:
        assert ledger.epsilon(1e-5) > once


def test_another_attempt_has_fresh_noise_and_is_paid_for_again(tmp_path: Path) -> None:
    server = serve(secure_task(dp=training.DP, keyed_noise_seed=None), tmp_path)
    spent = []
    for attempt, lost in ((1, [0, 1]), (2, [])):
        server.lose = {"train": lost}
        try:
            server.round(1, training.start(), attempt=attempt)
        except SecAggError as error:
            spent.append(error.code)
        with FileLedger(tmp_path / "ledgers" / "device-2.ledger", epsilon=8.0, delta=1e-5) as ledger:
            spent.append(ledger.epsilon(1e-5))
    assert spent[0] == "threshold"
    assert spent[2] > spent[1] > 0


def test_a_session_with_less_noise_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    server = serve(secure_task(dp=training.DP), tmp_path)
    facts = {**server.terms.privacy, "noise_multiplier": 0.1}
    with pytest.raises(SecAggError):
        server.round(1, training.start(), privacy=facts)
    assert all("privacy parameters" in text for text in server.refusals["advertise"].values())
    assert not list((tmp_path / "ledgers").iterdir())


def test_the_next_session_is_prepared_on_the_way(tmp_path: Path) -> None:
    task = secure_task()
    server = serve(task, tmp_path)
    first = server.aggregator(server.header(1, training.start()))
    second = server.aggregator(server.header(2, None))
    orders = {name: Order("advertise", first.header.to_bytes()) for name in first.header.cohort}
    ahead = {name: Order("advertise", second.header.to_bytes()) for name in second.header.cohort}
    for step in STEPS:
        contents = {name: server.content(1, step, order, training.start()) for name, order in orders.items()}
        if step in {"train", "sign"}:
            for name, content in contents.items():
                attach(content, ahead[name], AHEAD)
        for name, content in server.exchange(step, contents).items():
            if step in {"train", "sign"}:
                said = answer_in(content, AHEAD, max_bytes=1 << 20)
                ahead = {n: Order("share", message=m) for n, m in second.handle(name, said)} or ahead
            out = first.handle(name, answer_in(content, max_bytes=1 << 20))
        following = dict(itertools.pairwise(STEPS)).get(step, "")
        orders = {name: Order(following, message=message) for name, message in out}
    assert first.result is not None
    assert second.step == "mask"
    second.bind(*(getattr(server.header(2, training.start()), name) for name in ("model_hash", "scale_hash")))
    orders = {name: Order("train", message=order.message) for name, order in ahead.items()}
    for step in STEPS[2:]:
        orders = server.step(2, step, second, orders, training.start())
    codes = np.sum([codes_of(task, device, 2) for device in range(DEVICES)], axis=0)
    assert second.result is not None
    assert second.result.total[: len(codes)].tolist() == codes.tolist()
    assert not server.fleet.states()


def test_a_next_session_that_is_refused_leaves_this_round_alone(tmp_path: Path) -> None:
    server = serve(secure_task(), tmp_path)
    poor = server.header(2, None, threshold=2, min_cohort=2)

    def tamper(step: str, device: int, content: RecordDict) -> None:
        if step in {"train", "sign"}:
            attach(content, Order("advertise", poor.to_bytes()), AHEAD)

    server.tamper = tamper
    assert server.round(1, training.start()).weight == DEVICES
    assert all(list(reply.content) == ["secagg"] for reply in server.replies)


def test_a_second_attempt_starts_from_the_same_residual(tmp_path: Path) -> None:
    task = secure_task(error_feedback=True)
    server = serve(task, tmp_path)
    server.round(1, training.start())
    server.lose = {"train": [0, 1]}  # the others have trained, but nobody has signed
    with pytest.raises(SecAggError, match="3 of 5"):
        server.round(2, training.start())
    server.lose = {}
    again = server.round(2, training.start(), attempt=2)
    straight = tmp_path / "straight"
    straight.mkdir()
    twin = serve(task, straight)
    twin.round(1, training.start())
    assert twin.round(2, training.start()).total.tolist() == again.total.tolist()
    assert twin.round(3, training.start()).total.tolist() == server.round(3, training.start()).total.tolist()


def test_nothing_stays_in_the_context_after_the_last_step(tmp_path: Path) -> None:
    server = serve(secure_task(), tmp_path)
    server.round(1, training.start())
    assert not server.fleet.states()


def test_a_device_that_was_lost_forgets_the_session_with_the_next(tmp_path: Path) -> None:
    server = serve(secure_task(), tmp_path)
    server.lose = {"sign": [3]}
    server.round(1, training.start())
    (where,) = [node.context(1) for node in server.fleet._nodes.values() if node.context(1).state]
    assert list(kept_in(where)) == [1]
    server.lose = {}
    server.round(2, training.start())
    assert not server.fleet.states()


def test_a_cohort_is_masked_like_single_devices(tmp_path: Path) -> None:
    task = secure_task(batching="always")
    server = serve(task, tmp_path)
    app = server.fleet._app
    contexts = {d: Context(1, node_id_of(d), {"partition-id": d}, RecordDict(), {}) for d in range(DEVICES)}
    session = server.aggregator(server.header(1, training.start()))
    orders = {f"device-{d}": Order("advertise", session.header.to_bytes()) for d in contexts}
    for step in STEPS:
        messages = [
            server.message(d, step, server.content(1, step, orders[f"device-{d}"], training.start())) for d in contexts
        ]
        stamped = [training.train_message(2, training.start()) for _ in messages]
        for message, stamp in zip(messages, stamped, strict=True):
            message.metadata.__dict__["_message_id"] = stamp.metadata.message_id
        if step == "train":
            contents = app.train_cohort(messages, list(contexts.values()))
        else:
            contents = [app(m, c).content for m, c in zip(messages, contexts.values(), strict=True)]
        for device, content in zip(contexts, contents, strict=True):
            assert isinstance(content, RecordDict), content
            out = session.handle(f"device-{device}", answer_in(content, max_bytes=1 << 20))
        orders = {name: Order(STEPS[min(STEPS.index(step) + 1, 4)], message=m) for name, m in out}
    assert session.result is not None
    codes = np.sum([codes_of(task, device, 1) for device in range(DEVICES)], axis=0)
    # A cohort's gradients are summed in another order, so that some codes are rounded the other way.
    assert np.abs(session.result.total[: len(codes)] - codes).max() <= 2
    assert metrics_in(task, session.result)["examples"] == np.mean([len(examples(d)) for d in range(DEVICES)])
    assert not any(context.state for context in contexts.values())


def test_one_bad_member_of_a_cohort_is_refused_alone(tmp_path: Path) -> None:
    server = serve(secure_task(batching="always"), tmp_path)
    message = training.train_message(2, training.start())
    contexts = [Context(1, node_id_of(d), {"partition-id": d}, RecordDict(), {}) for d in range(2)]
    outcomes = server.fleet._app.train_cohort([message, message], contexts)
    assert [type(outcome) for outcome in outcomes] == [SecAggError, SecAggError]


def test_an_error_in_the_training_is_told_by_its_kind_only(tmp_path: Path) -> None:
    """Flower's own nodes send the text of what was raised, and this one has a label in it."""

    def unreadable(device: int) -> training.Examples:
        raise IndexError(f"label 4321 of device {device}")

    server, raised = serve(secure_task(), tmp_path, source=unreadable), list[Exception]()
    server.fleet._app = overheard(server.fleet._app, raised)
    with pytest.raises(SecAggError):
        server.round(1, training.start())
    assert len(raised) == DEVICES
    assert all(type(error) is SecAggError and "IndexError" in str(error) for error in raised)
    assert not any("4321" in str(error) for error in raised)
    assert all("4321" in text for text in server.refusals["train"].values())  # a simulation says it all


def test_an_error_about_the_examples_is_told_by_its_kind_only(tmp_path: Path) -> None:
    def wrong(device: int) -> training.Examples:
        return training.Examples(np.zeros((97, 3), np.float32), np.zeros(97, np.int64))

    app = serve(secure_task(), tmp_path, source=wrong).fleet._app
    with pytest.raises(SecAggError, match="ConfigError") as caught:
        app(
            training.train_message(2, training.start()),
            Context(1, node_id_of(0), {"partition-id": 0}, RecordDict(), {}),
        )
    assert "97" not in str(caught.value)


def test_a_device_says_its_name(tmp_path: Path) -> None:
    server = serve(secure_task(), tmp_path)
    (reply,) = server.grid.send_and_receive([server.message(3, "hello", hello())])
    assert name_in(reply.content) == "device-3"


def test_what_secure_aggregation_needs_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="identities"):
        vision.build(secure_task(), examples, homes=SimulatedHomes())
    with pytest.raises(ConfigError, match="adds integers"):
        vision.build(training.task(secure_aggregation=True), examples, homes=SimulatedHomes(identities=tmp_path))
    app = vision.build(secure_task(), examples, homes=SimulatedHomes(identities=tmp_path / "none"))
    asks = Message(hello(), 2, QUERY)
    with pytest.raises(ConfigError, match="cannot read the roster"):
        app(asks, Context(1, 2, {"partition-id": 0}, RecordDict(), {}))


def test_a_plain_task_knows_nothing_of_sessions(tmp_path: Path) -> None:
    app = vision.build(training.int8_task(), examples, homes=SimulatedHomes(identities=tmp_path))
    message = training.train_message(2, training.start())
    message.metadata.__dict__["_message_type"] = "query.secagg"
    with pytest.raises(ValueError, match="No query function"):
        app(message, Context(1, 2, {"partition-id": 0}, RecordDict(), {}))


def test_the_local_floor_is_the_policys(tmp_path: Path) -> None:
    task = secure_task()
    terms = terms_of(task, Trainer.of(task).layout, floor=Policy(smallest_cohort=50))
    assert terms.policy.smallest_cohort == 50
    assert terms.policy.value_bits == 8


def test_credentials_are_the_partitions_and_are_read_once(tmp_path: Path) -> None:
    serve(secure_task(), tmp_path)
    credentials = HomeCredentials(SimulatedHomes(identities=tmp_path / "identities"))
    where = Context(1, 9, {"partition-id": 4}, RecordDict(), {})
    first = credentials(where)
    assert first.name == "device-4"
    assert first.roster.key("device-4") == first.identity.public
    assert first.store_path == tmp_path / "identities" / "device-4.sqlite"
    assert credentials(where).identity is first.identity
    with pytest.raises(ConfigError, match="partition-id"):
        partition_in(Context(1, 9, {}, RecordDict(), {}))


def test_a_device_joins_sessions_as_large_as_its_tasks_groups_and_never_refuses_small_ones() -> None:
    layout = Layout(("w",), ((3,),))
    limits = [terms_of(secure_task(group_size=size), layout).policy.largest_cohort for size in (4, 128, 600)]
    assert limits == [128, 128, 600]
