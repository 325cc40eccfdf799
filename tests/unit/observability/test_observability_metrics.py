"""What is exported of events, refusals and a node."""

from collections import Counter

import pytest
from exported import EVERY_EVENT, samples

from fedmesh.events import (
    DeviceAnswered,
    DeviceFailed,
    DeviceReplied,
    Event,
    ModelReported,
    OfTask,
    RoundFinished,
    RunStopped,
    WaitingForDevices,
)
from fedmesh.observability import NodeMetrics, RunMetrics, new_registry
from fedmesh.observability.bounded import BoundedLabel
from fedmesh.observability.metrics import event_name
from fedmesh.observability.refusals import Refusals


def test_every_kind_of_event_is_counted():
    registry = new_registry()
    sink = RunMetrics(registry).sink("digits")
    for event in EVERY_EVENT:
        sink(event)
    found = samples(registry)
    for event in EVERY_EVENT:
        if isinstance(event, OfTask):  # counted for its task, as what it carries
            assert found["fedmesh_events_total", ("event", event_name(event.event)), ("task", event.task)] == 1
            continue
        assert found["fedmesh_events_total", ("event", event_name(event)), ("task", "digits")] == 1


def test_the_list_of_events_is_whole():
    told = {kind.__name__ for kind in Event.__subclasses__() if kind.__module__.startswith("fedmesh.events.")}
    assert {type(event).__name__ for event in EVERY_EVENT} == told


def test_a_round_in_numbers():
    registry = new_registry()
    sink = RunMetrics(registry, clock=lambda: 1_800_000_000.0).sink("digits")
    good = {"clients": 8, "accuracy_int8": 0.9, "loss": 0.5, "bytes_up": 10.0, "bytes_down": 20.0, "seconds": 2.0}
    sink(RoundFinished(1, survivors=7, epsilon=1.5, **good))
    sink(RoundFinished(2, survivors=0, epsilon=None, **good, failed="quorum"))
    found = samples(registry)
    task = ("task", "digits")
    assert found["fedmesh_rounds_total", ("outcome", "ok"), task] == 1
    assert found["fedmesh_rounds_total", ("outcome", "failed"), task] == 1
    assert found["fedmesh_round", task] == 2
    assert found["fedmesh_round_survivors", task] == 0
    assert found["fedmesh_round_asked_devices", task] == 8
    assert found["fedmesh_round_seconds_sum", task] == 4.0
    assert found["fedmesh_round_last_timestamp_seconds", task] == 1_800_000_000.0
    assert found["fedmesh_epsilon", task] == 1.5  # what is spent is spent
    assert found["fedmesh_round_device_sent_bytes", task] == 10.0
    assert found["fedmesh_round_device_received_bytes", task] == 20.0
    assert found["fedmesh_accuracy_ratio", task] == 0.9


def test_tasks_are_told_apart_and_devices_are_not():
    registry = new_registry()
    metrics = RunMetrics(registry)
    for device in range(50):
        metrics.sink("a")(DeviceReplied(1, "train", device, 100))
        metrics.sink("b")(DeviceFailed(1, "train", device, f"reason {device}"))
    found = samples(registry)
    stage = ("stage", "train")
    assert found["fedmesh_replies_total", stage, ("task", "a")] == 50
    assert found["fedmesh_reply_bytes_total", stage, ("task", "a")] == 5_000
    assert found["fedmesh_device_failures_total", stage, ("task", "b")] == 50
    assert not any("device" in dict(labels) for _, *labels in found)
    assert len([key for key in found if key[0] == "fedmesh_device_failures_total"]) == 1


def test_what_a_coordinator_tells_of_its_tasks():
    registry = new_registry()
    sink = RunMetrics(registry).sink()
    sink(OfTask("digits", 3, WaitingForDevices(4, 2, 5)))
    sink(OfTask("digits", 3, RunStopped(4, abandoned=False)))
    sink(OfTask("digits", 3, DeviceAnswered("pi-1", accepted=True, why="")))
    sink(OfTask("digits", 3, DeviceAnswered("pi-2", accepted=False, why="budget")))
    sink(OfTask("digits", 3, DeviceAnswered("pi-3", accepted=False, why="a\nlie")))
    sink(ModelReported("pi-1", 7, "installed"))
    found = samples(registry)
    task = ("task", "digits")
    assert (found["fedmesh_round_present_devices", task], found["fedmesh_round_wanted_devices", task]) == (2, 5)
    assert found["fedmesh_runs_total", ("state", "stopped"), task] == 1
    assert {why: found["fedmesh_offers_total", task, ("why", why)] for why in ("", "budget", "other")} == dict.fromkeys(
        ("", "budget", "other"), 1
    )
    assert found["fedmesh_model_reports_total", ("outcome", "installed"), ("task", "")] == 1


def test_names_follow_the_rules():
    registry = new_registry()
    node, run = NodeMetrics(registry), RunMetrics(registry)
    node.refusals.watch("transport", lambda: {"digest": 1})
    for event in EVERY_EVENT:
        run.sink("digits")(event)
    for family in registry.collect():
        assert family.name.startswith(("fedmesh_", "process_"))
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        assert not family.name.endswith(("_ms", "_kb", "_mb", "_percent"))


def test_refusals_are_read_when_they_are_scraped_and_added_up():
    refusals, registry = Refusals(), new_registry()
    registry.register(refusals)
    first, second = Counter(digest=1), Counter({"digest": 2, "too-large": 1})
    refusals.watch("transport", lambda: first)
    refusals.watch("transport", lambda: second)
    refusals.watch("identity", lambda: Counter(revoked=1))
    refusals.count("identity", "revoked")
    refusals.count("registry", "rollback")
    first["digest"] += 4
    found = samples(registry)
    assert found["fedmesh_refused_total", ("part", "transport"), ("reason", "digest")] == 7
    assert found["fedmesh_refused_total", ("part", "transport"), ("reason", "too-large")] == 1
    assert found["fedmesh_refused_total", ("part", "identity"), ("reason", "revoked")] == 2
    assert found["fedmesh_refused_total", ("part", "registry"), ("reason", "rollback")] == 1


def test_a_peer_that_invents_reasons_makes_no_series():
    refusals, registry = Refusals(), new_registry()
    registry.register(refusals)
    counts = Counter({f"invented_{number}": 1 for number in range(1_000)})
    refusals.watch("transport", lambda: counts)
    found = [key for key in samples(registry) if key[0] == "fedmesh_refused_total"]
    assert len(found) == 65
    before = samples(registry)["fedmesh_refused_total", ("part", "transport"), ("reason", "other")]
    assert before == 1_000 - 64
    assert samples(registry)["fedmesh_refused_total", ("part", "transport"), ("reason", "other")] == before


@pytest.mark.parametrize("text", ["", "A", 'a"b', "a\nb", "x" * 41, "device/1", "é"])
def test_what_is_no_word_is_no_label(text):
    assert BoundedLabel()(text) == "other"


def test_a_node_is_asked_when_it_is_scraped():
    metrics = NodeMetrics()
    state = {"connected": False, "present": 0}
    metrics.watch(
        connected=lambda: bool(state["connected"]), present=lambda: int(state["present"]), certificate_ends=lambda: 5.0
    )
    assert samples(metrics.registry)["fedmesh_broker_connected",] == 0
    state |= {"connected": True, "present": 3}
    found = samples(metrics.registry)
    assert found["fedmesh_broker_connected",] == 1
    assert found["fedmesh_peers_present",] == 3
    assert found["fedmesh_certificate_expiry_timestamp_seconds",] == 5.0


def test_two_nodes_in_one_process_do_not_meet():
    one, other = NodeMetrics(), NodeMetrics()
    RunMetrics(one.registry).sink("a")(EVERY_EVENT[0])
    RunMetrics(other.registry)
    assert not any(key[0] == "fedmesh_events_total" for key in samples(other.registry))
