"""The benchmark of the mesh measures what it says, in a small version of it."""

import pytest

from benchmarks.mesh import delivery, failures, idle, messages
from benchmarks.mesh.__main__ import main
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


def test_a_part_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "everything"])
    assert "messages" in capsys.readouterr().err
