"""The benchmark of the mesh measures what it says, in a small version of it."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks.mesh import delivery, failures, idle, messages, round_sites, rounds
from benchmarks.mesh.__main__ import main
from fedmesh.testing.loopback_broker import find_mosquitto
from fedmesh.testing.namespaces import missing


def test_messages_are_compared_with_grpc():
    pytest.importorskip("grpc", reason="grpcio comes with Flower")
    found = messages.compare(turns=1, requests=20, megabytes=(1,))
    for kind in messages.KINDS:
        assert 0 < found[kind]["p50_ms"] <= found[kind]["p99_ms"]
    assert found["fedmesh"]["mb_per_s"]["1"][0] > 0
    ours, theirs = found["fedmesh"]["p50_ms"], found["grpc"]["p50_ms"]
    assert found["ratio"]["p50_ms"] == pytest.approx(ours / theirs, abs=0.01)
    assert any(f"{found['ratio']['p50_ms']}x" in line for line in messages.lines(found))


@pytest.mark.slow
def test_a_killed_member_is_found_and_nobody_else_is():
    found = failures.measure(members=3, quiet_s=1.0, kills=1)
    (one,) = found["detections"]
    assert 0 < one["first_s"] <= one["all_s"]
    assert set(found["false"]) == {"suspect", "dead"}
    assert f"| {one['all_s']} s |" in failures.lines(found)[2]


def test_an_accusation_without_a_fault_is_counted(tmp_path):
    class Told:
        """Members that tell of one suspicion long ago, and of one from now on."""

        @staticmethod
        def told(name, _event):
            times = {"anna": [1.0, 4e9], "bert": []}[name]
            return [{"time": time, "state": "suspect", "device": "cleo"} for time in times]

    assert failures._quiet(Told(), ("anna", "bert"), 0.0) == {"suspect": 1, "dead": 0}


@pytest.mark.slow
def test_an_idle_member_is_weighed():
    found = idle.measure(members=3, seconds=1.0, settle_s=0.5)
    assert found["members"] == 3
    assert 10 < found["pss_mb"]["median"] <= found["rss_mb"]["worst"]
    assert found["bytes_per_s"] > 0
    assert f"{found['rss_mb']['median']} MB" in "".join(idle.lines(found))


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["link", "sender"])
def test_a_model_reaches_everybody(limit):
    if limit == "link" and (needed := missing()):
        pytest.skip(f"there are no network namespaces: {needed} is missing")
    found = delivery.measure(peers=2, megabytes=0.6, kbit_s=8_000, limit=limit)
    assert found["limit"] == limit
    assert 0 < found["first_has_it_s"] <= found["all_have_it_s"] <= found["all_run_it_s"]
    assert found["times"] > 0.9
    assert (found["copies"] is None) == (limit == "sender")
    assert limit == "sender" or 0.9 < found["copies"] < 3
    assert len(delivery.lines(found)) == 6


class Told:
    """A site that has told all of three rounds, of which the last was tried twice."""

    def __init__(self):
        self.finished = {n: {"time": 1000.0 + 10 * n, "in_sum": 6 - (n == 3)} for n in (1, 2, 3)}
        self.steps = {2: {"share": 1010.5, "train": 1011.0, "sign": 1018.0}, 3: {"train": 1024.0, "sign": 1028.0}}
        self.said = ""


def test_a_round_is_divided_into_its_steps_and_the_first_is_apart():
    watched = round_sites.watch(Told(), devices=6, rounds=3, begun=1003.0)
    assert (watched.first_s, watched.round_s, watched.repeated) == (7.0, [10.0, 10.0], 1)
    assert watched.steps_s == [
        {"begin": 0.5, "share": 0.5, "train": 7.0, "sign": 2.0}, {"begin": 4.0, "train": 4.0, "sign": 2.0},
    ]  # fmt: skip
    assert watched.processor_s >= 0
    assert watched.bytes >= 0


def test_the_processor_time_of_children_that_have_ended_counts_and_ones_own_does_not():
    before = round_sites.descendants_s(os.getpid())
    ends = time.process_time() + 0.3
    while time.process_time() < ends:
        pass
    assert round_sites.descendants_s(os.getpid()) - before < 0.3
    burning = "import time\nwhile time.process_time() < 0.5: pass\nprint()\ninput()"
    within = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burning!r}])\nprint()\ninput()"
    with subprocess.Popen([sys.executable, "-c", within], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outer:
        assert outer.stdout.readline()
        assert round_sites.descendants_s(os.getpid()) - before >= 0.5  # of the grandchild that runs
        outer.stdin.write(b"\n")
        outer.stdin.flush()
        assert outer.stdout.readline()
        assert round_sites.descendants_s(os.getpid()) - before >= 0.5  # it has ended
        outer.communicate(b"\n")


def test_the_mesh_is_measured_by_the_fleet():
    def watched(site, *, devices, rounds):
        times = 3 if site == "mesh" else 1
        steps = [{"begin": 0.5, "train": 1.0}, {"begin": 0.5, "train": 1.5}]
        told = {"first_s": 9.0, "round_s": [2.0 * times, 2.5 * times], "steps_s": steps, "repeated": 0}
        return {**told, "processor_s": 1.0 * times, "bytes": 600 * times, "packets": 0}, True

    found = rounds.compare(devices=6, rounds=3, run=watched)
    assert found["fleet"] | {"load": 0} == {
        "load": 0, "first_s": 9.0, "round_s": 2.25, "without_training_s": 1.0, "worst_s": 2.5,
        "steps_s": {"begin": 0.5, "train": 1.25}, "processor_s": 1.0, "bytes": 100, "packets": 0, "repeated": 0,
    }  # fmt: skip
    assert found["ratio"] == {"round_s": 3.0, "without_training_s": 5.5, "processor_s": 3.0, "bytes": 3.0}
    table = rounds.lines(found)
    assert "| median | 2.25 s | 6.75 s | 3.0x |" in table
    assert table[-1] == "seconds, mesh: begin 0.5, train 1.25"


@pytest.mark.exhaustive
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed: apt-get install mosquitto")
@pytest.mark.parametrize("site", rounds.SITES)
def test_rounds_are_measured_in_real_processes(site):
    pytest.importorskip("torch")
    watched, _ = rounds.run_apart(site, devices=4, rounds=2)
    found = rounds.figures(watched, 4)
    assert 0 < found["without_training_s"] < found["round_s"] <= found["first_s"]
    assert list(found["steps_s"])[-3:] == ["train", "sign", "unmask"]
    assert found["processor_s"] > 0
    assert found["bytes"] > 10_000
    assert found["repeated"] == 0


def test_a_part_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "everything"])
    assert "messages" in capsys.readouterr().err
