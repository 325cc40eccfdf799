"""Sessions of a task whose noise is complete in the sum only."""

from dataclasses import asdict

import pytest
from private_sums import sum_settings
from secagg_sessions import AGGREGATOR, identity, names, roster

from fedmesh.coordinator.convener import Convener, counter
from fedmesh.coordinator.secure_settings import SecureSettings
from fedmesh.errors import QuorumError
from fedmesh.secagg import SessionHeader
from fedmesh.types import Layout

LAYOUT = Layout(("w",), ((50,),))
SUMMED = sum_settings(honest=9, colluders=1, members=12, size=50)


def convener(**settings: object) -> Convener:
    facts = {"task_name": "t", "bits": 8, "summed": SUMMED, "privacy": asdict(SUMMED), "seed": 1, **settings}
    return Convener(identity(AGGREGATOR), roster(40), SecureSettings(**facts), LAYOUT, counter())  # type: ignore[arg-type]


def headers(devices: int, *, quorum: int = 1, **settings: object) -> list[SessionHeader]:
    attempt = convener(**settings).open(1, dict(enumerate(names(devices))), None, quorum=quorum)
    return [SessionHeader.from_bytes(header) for header in {order.header for order in attempt.orders().values()}]


def test_a_session_is_about_the_ring_elements_of_a_private_sum() -> None:
    (header,) = headers(12)
    assert (header.length, header.ring_bits) == (SUMMED.length, SUMMED.bits)
    assert (header.length, header.ring_bits) != (50, 12)
    assert header.min_cohort == 10 > header.threshold  # the noise wants more than secrecy
    assert header.privacy == asdict(SUMMED)
    (larger,) = headers(12, quorum=12)
    assert larger.min_cohort == 12


def test_every_group_is_large_enough_for_the_noise() -> None:
    assert [header.min_cohort for header in headers(24, group_size=12)] == [10, 10]
    with pytest.raises(QuorumError, match=r"in groups of 9 and more; the noise in a sum is sized for 10") as caught:
        headers(18, group_size=12)
    assert (caught.value.arrived, caught.value.wanted) == (9, 10)


def test_a_round_begins_among_enough_devices_for_the_quorum_and_for_the_noise() -> None:
    assert [convener().fewest(quorum) for quorum in (1, 11)] == [10, 11]
    assert [convener(summed=None).fewest(quorum) for quorum in (1, 11)] == [4, 11]
