"""Order and grouping: longest first, evenly, a node's messages one after another."""

from fedmesh.flower.envelope import Envelope
from fedmesh.simulation.schedule import Bundle, Schedule


def item(node: int, name: bytes = b"") -> tuple[int, Envelope]:
    return node, Envelope(name, ())


def drain(schedule: Schedule) -> list[list[int]]:
    found = []
    while (bundle := schedule.next()) is not None:
        found.append([node for node, _ in bundle.items])
        schedule.done(bundle)
    return found


def make(costs: dict[int, float], nodes: list[int]) -> Schedule:
    schedule = Schedule(lambda node: costs.get(node, 0))
    for node in nodes:
        schedule.add(item(node))
    return schedule


def test_costly_nodes_come_first_and_equals_in_the_order_of_submission() -> None:
    schedule = make({2: 5, 3: 9, 4: 5, 5: 7}, [2, 3, 4, 5])
    assert schedule
    schedule.group(1)
    assert drain(schedule) == [[3], [5], [2], [4]]
    assert not schedule


def test_groups_are_even_and_never_larger_than_asked() -> None:
    schedule = make({}, list(range(2, 12)))
    schedule.group(4)
    sizes = [len(bundle) for bundle in drain(schedule)]
    assert sum(sizes) == 10
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 3


def test_a_node_is_never_in_two_places() -> None:
    schedule = Schedule(lambda _node: 0)
    for name in (b"1", b"2", b"3"):
        schedule.add(item(2, name))
    schedule.add(item(3))
    schedule.group(8)
    first = schedule.next()
    assert isinstance(first, Bundle)
    assert first.nodes == {2, 3}
    assert schedule.next() is None
    schedule.done(first)
    second = schedule.next()
    assert second is not None
    assert second.items[0][1].meta == b"2"
    assert schedule.next() is None


def test_what_has_to_run_again_runs_before_what_came_later() -> None:
    schedule = Schedule(lambda _node: 0)
    schedule.add(item(2, b"1"))
    schedule.add(item(2, b"2"))
    schedule.group(1)
    first = schedule.next()
    assert first is not None
    schedule.again(first)
    assert schedule.next() is first


def test_few_devices_are_spread_and_many_are_not() -> None:
    for nodes, sizes in ((10, [5, 5]), (64, [16] * 4), (3, [3]), (20, [5] * 4)):
        schedule = make({}, list(range(2, 2 + nodes)))
        schedule.group(16)
        assert [len(bundle) for bundle in drain(schedule)] == sizes
