from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.coordinator.groups import SMALLEST_GROUP, deal, group_sizes, largest_group
from fedmesh.errors import ConfigError


@given(count=st.integers(4, 600), size=st.integers(4, 128), key=st.none() | st.tuples(st.integers(0, 9)))
def test_every_node_is_in_one_group_of_a_fit_size(count: int, size: int, key: tuple[int, ...] | None) -> None:
    nodes = range(2**64 - count, 2**64)  # node ids are unsigned
    groups = deal(nodes, size, key=key)
    assert sorted(node for group in groups for node in group) == list(nodes)
    lengths = [len(group) for group in groups]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= SMALLEST_GROUP
    assert max(lengths) <= max(size, 7)
    if count <= size:
        assert len(groups) == 1


@given(count=st.integers(4, 300), size=st.integers(4, 64))
def test_sizes_are_known_before_the_dealing(count: int, size: int) -> None:
    groups = deal(range(count), size, key=(1,))
    assert group_sizes(count, size) == tuple(map(len, groups))
    assert largest_group(count, size) == max(max(group_sizes(left, size)) for left in range(4, count + 1))


def test_fewer_devices_can_be_dealt_into_larger_groups() -> None:
    assert max(group_sizes(50, 16)) == 13
    assert largest_group(50, 16) == max(group_sizes(48, 16)) == 16
    assert largest_group(10, 128) == 10


def test_the_dealing_is_a_function_of_its_key_and_at_random_without() -> None:
    nodes = range(2, 42)
    assert deal(nodes, 8, key=(1, 2)) == deal(list(reversed(nodes)), 8, key=(1, 2))
    assert deal(nodes, 8, key=(1, 2)) != deal(nodes, 8, key=(1, 3))
    assert deal(nodes, 8) != deal(nodes, 8)


def test_everybody_is_as_likely_in_anybodys_group() -> None:
    together = Counter(
        other for key in range(2000) for group in deal(range(12), 4, key=(key,)) if 0 in group for other in group
    )
    assert all(450 < together[other] < 650 for other in range(1, 12))  # 2000 * 3 / 11


@pytest.mark.parametrize(("count", "size"), [(3, 128), (0, 4), (12, 3)])
def test_too_few_cannot_be_dealt(count: int, size: int) -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        deal(range(count), size)
