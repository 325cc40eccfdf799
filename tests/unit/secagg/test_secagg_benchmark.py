"""The benchmark's contenders on little work: all of them run, and check their own sums."""

import pytest

from benchmarks.secagg_peers import fedmesh_secagg, flower_complete, flower_secagg, machine
from benchmarks.secagg_peers.setting import Setting
from fedmesh.secagg import SessionHeader
from fedmesh.secagg.ring import Ring


def little(neighbours: int, threshold: int) -> Setting:
    return Setting(
        devices=8,
        dropouts=2,
        neighbours=neighbours,
        threshold=threshold,
        ring_bits=Ring.bits_for(8, 1, 8),
        length=1000,
    )


def test_our_session_is_measured_step_by_step() -> None:
    figures = fedmesh_secagg.measure(little(7, SessionHeader.threshold_for(8)))
    assert list(figures.device) == ["advertise", "share", "mask", "sign", "unmask"]
    assert figures.aggregator.keys() == figures.device.keys()
    assert figures.bytes_up["mask"] > 1000 * 12 / 8
    assert figures.best_with(figures) == figures


def test_flower_is_measured_at_a_degree_and_extrapolated_on_the_complete_graph() -> None:
    degree = flower_secagg.measure(little(4, 3))
    complete = flower_complete.measure(little(7, SessionHeader.threshold_for(8)))
    assert degree.bytes_per_parameter == pytest.approx(8, rel=0.5)
    assert not degree.unmask.extrapolated
    assert complete.unmask.extrapolated
    assert complete.share.cpu_s > 0


def test_a_wrong_sum_ends_the_benchmark() -> None:
    class Wrong(Setting):
        """A device that sends something else the second time it is asked."""

        calls = 0

        def vector(self, place: int):
            Wrong.calls += 1
            return super().vector(place + (Wrong.calls > 6))

    work = little(7, SessionHeader.threshold_for(8))
    with pytest.raises(SystemExit, match="wrong"):
        fedmesh_secagg.measure(Wrong(**{name: getattr(work, name) for name in work.__dataclass_fields__}))


def test_the_machine_has_limits() -> None:
    limits = machine.limits()
    assert limits.keystream_s(2_000_000_000) == pytest.approx(2_000_000_000 / limits.aes_ctr)
