"""What a sum cannot have: messages and names that are bad cost their device, strategies and settings the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import strategy as flower
from secure_federation import Federation, altered, fedavg, flipped, step_of
from secure_rounds import THREE, plain, run

from fedmesh.coordinator import Journal, SecureSettings
from fedmesh.errors import ConfigError, QuorumError, RoundError, SecAggError
from fedmesh.events import Event, StageStarted
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.secure import HELLO, STEPS, hello_answer
from fedmesh.secagg import Identity


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nonsense", [flipped, lambda _: b"", lambda data: data + b"\0", lambda _: b"\xff" * 100])
def test_a_bad_message_costs_its_device_and_not_the_round(tmp_path: Path, step: str, nonsense: Any) -> None:
    federation = Federation(tmp_path, 7)
    answer = federation.app()

    def app(message: Message, context: Context) -> Message:
        lies = context.node_config["partition-id"] == 2 and step_of(message) == step
        reply = answer(message, context)
        return altered(reply, nonsense) if lies else reply

    federation.app = lambda: app  # type: ignore[method-assign]
    result = run(federation)
    record = result.records[1]
    ((device, reason),) = record.failures
    assert device == 2
    assert reason.split(":")[0] in {"signature", "malformed"}
    gone = () if step in {"sign", "unmask"} else (2,)
    assert result.arrays == plain(7, without=gone)


def test_replies_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 7)
    contents = {0: RecordDict(), 1: RecordDict({"secagg": vector_record("other", np.zeros(3, np.uint8))})}

    def trouble(message: Message, partition: int) -> Message | None:
        if partition in contents and step_of(message) == "train":
            return Message(contents[partition], reply_to=message)
        return None

    federation.trouble = trouble
    record = run(federation).records[1]
    assert record.survivors == 5
    assert [device for device, _ in record.failures] == [0, 1]
    assert "no message of its session" in record.failures[0][1]


def test_devices_are_asked_for_their_names_once(tmp_path: Path) -> None:
    events = list[Event]()
    federation = Federation(tmp_path, 5)
    result = run(federation, 2, names=None, events=events.append)
    assert result.arrays == plain(5, 2)
    assert [e.stage for e in events if isinstance(e, StageStarted)] == ["hello", *STEPS, *THREE]
    assert [record.clients for record in result.records[1:]] == [5, 5]


def test_a_device_that_is_not_on_the_roster_takes_no_part(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 6)
    names = {2: "device-0", 3: "device-1", 4: "device-2", 5: "device-3", 6: "stranger", 7: "device-0"}
    result = run(federation, names=lambda nodes: {node: names[node] for node in nodes})
    record = result.records[1]
    assert (record.clients, record.survivors) == (6, 4)
    assert [device for device, _ in record.failures] == [4, 5]
    assert all("not on the roster" in reason or "no device" in reason for _, reason in record.failures)
    assert result.arrays == plain(4)


def test_a_stranger_that_is_asked_for_its_name_is_refused(tmp_path: Path) -> None:
    federation, larger = Federation(tmp_path, 4), Federation(tmp_path, 5)
    federation.app = larger.app  # type: ignore[method-assign]
    federation.devices = 5
    record = run(federation, names=None).records[1]
    assert record.survivors == 4
    assert record.failures == ((4, "it says that it is 'device-4', a device that is not on the roster"),)


def test_a_device_that_gives_anothers_name_fails_at_its_signature(tmp_path: Path) -> None:
    """It keeps the other out of the round, no more."""
    federation = Federation(tmp_path, 6)

    def trouble(message: Message, partition: int) -> Message | None:
        says_so = partition == 0 and step_of(message) == HELLO
        return Message(hello_answer("device-1"), reply_to=message) if says_so else None

    federation.trouble = trouble
    result = run(federation, names=None)
    assert result.arrays == plain(6, without=(0, 1))
    (_, first), (_, second) = result.records[1].failures
    assert "device-0" in first  # its messages are signed by device-0, which is not in this session
    assert "another node has that name" in second


def test_a_strategy_that_needs_more_than_the_sum_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    for strategy, words in ((flower.FedAvg(), "needs = 'sum'"), (fedavg(codec="float32"), "integer codec")):
        with pytest.raises(ConfigError, match=words):
            federation.secured(strategy)
    bare = fedavg()
    bare.layout = None  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no layout"):
        federation.secured(bare)


def test_a_server_that_is_not_on_the_roster_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 4)
    federation.identities["aggregator"] = Identity.generate()
    with pytest.raises(ConfigError, match="not on the roster"):
        federation.secured(fedavg())


@pytest.mark.parametrize(
    "setting", [{"group_size": 3}, {"group_size": 1025}, {"attempts": 0}, {"weight_cap": 0}, {"quorum": 0}, {"bits": 1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SecureSettings(**{"task_name": "t", "bits": 8, **setting})


def test_a_strategy_that_sends_different_models_is_refused(tmp_path: Path) -> None:
    class Two(type(fedavg())):  # type: ignore[misc]
        def configure_train(self, *args: Any) -> list[Message]:
            messages = list(super().configure_train(*args))
            content = RecordDict(dict(messages[0].content.items()))
            content["arrays"] = vector_record("model", np.zeros(LAYOUT.size, np.float32))
            messages[0].content = content
            return messages

    strategy = fedavg()
    strategy.__class__ = Two
    with pytest.raises(ConfigError, match="2 different models"):
        run(Federation(tmp_path, 4), strategy=strategy)


def test_a_sum_that_cannot_be_applied_costs_the_round(tmp_path: Path) -> None:
    class Picky(type(fedavg())):  # type: ignore[misc]
        def apply_sum(self, total: Any, weight: int) -> ArrayRecord:
            raise RoundError("the new weights are not finite")

    strategy, journal = fedavg(), Journal()
    strategy.__class__ = Picky
    with pytest.raises(RoundError, match="all 2 rounds"):
        run(Federation(tmp_path, 4), 2, strategy=strategy, journal=journal)
    record = journal.records()[2]
    assert record.failed == "the new weights are not finite"
    assert record.sessions[0].survivors == 4


def test_errors_are_of_the_rounds_branch() -> None:
    assert issubclass(SecAggError, RoundError)
    assert issubclass(QuorumError, RoundError)
