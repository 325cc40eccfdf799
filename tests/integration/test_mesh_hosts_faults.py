"""Members on machines of their own, on a network that parts, loses or is slow; models are any bytes."""

import time

import pytest
import quick_peer
from mesh_hosts import Publisher, see, until
from network_namespaces import Lan, require_namespaces

from fedmesh.testing.mesh_peers import MeshPeers

require_namespaces(filters=True)

pytestmark = pytest.mark.slow

NAMES = ("anna", "bert", "cleo", "dora", "emil")
ORIGIN, TAKERS = NAMES[0], NAMES[1:]


@pytest.fixture
def lan():
    with Lan() as made:
        yield made


@pytest.fixture
def peers(lan, tmp_path):
    with MeshPeers(tmp_path, *NAMES, lan=lan, command=quick_peer.COMMAND) as made:
        yield made


@pytest.fixture
def publisher(peers):
    """All are there, and agree on it."""
    made = Publisher(peers, ORIGIN)
    peers.start()
    until(lambda: see(peers, NAMES), peers)
    return made


def dead(names):
    return dict.fromkeys(names, "dead")


def test_a_partition_is_seen_on_both_sides_and_heals_with_all_that_was_missed(lan, peers, publisher):
    here, there = NAMES[:2], NAMES[2:]
    lan.rules(lan.apart(*([peers.machines[name] for name in side] for side in (here, there))))
    until(lambda: see(peers, here, **dead(there)) and see(peers, there, **dead(here)), peers)
    data = publisher.publish(300_000)
    until(lambda: publisher.has("bert", data), peers)
    assert not any(publisher.has(name, data) for name in there)
    lan.rules()
    until(lambda: see(peers, NAMES), peers)
    until(lambda: all(publisher.has(name, data) for name in TAKERS), peers)
    versions = dict.fromkeys(NAMES, "1")
    until(lambda: all(peers.models(name) == versions for name in NAMES), peers)


@pytest.mark.exhaustive
@pytest.mark.parametrize("lasts_s", [20, 120])
def test_a_fifth_of_all_frames_is_lost_and_nobody_is_declared_dead(lan, peers, publisher, lasts_s):
    lan.rules(lan.lossy(20))
    ends = time.monotonic() + lasts_s
    data = publisher.publish(600_000)
    until(lambda: all(publisher.has(name, data) for name in TAKERS), peers)
    until(lambda: time.monotonic() >= ends, peers, within_s=lasts_s + 10)
    states = {event["state"] for name in NAMES for event in peers.told(name, "MemberChanged")}
    assert "dead" not in states
    until(lambda: see(peers, NAMES), peers)  # who is suspected for a moment says that it is there


@pytest.mark.exhaustive
def test_a_slow_link_holds_up_nobody_else(lan, peers, publisher):
    slow, quick = TAKERS[-1], TAKERS[:-1]
    for name in NAMES:
        peers.machines[name].limit(1_000 if name == slow else 16_000)
    data = publisher.publish(1_200_000)
    until(lambda: all(publisher.has(name, data) for name in quick), peers)
    assert not publisher.has(slow, data)
    until(lambda: publisher.has(slow, data), peers, within_s=180)
    states = {event["state"] for name in NAMES for event in peers.told(name, "MemberChanged")}
    assert "dead" not in states, "a member whose link is full was taken for dead"


@pytest.mark.exhaustive
def test_a_limit_of_bytes_is_kept_by_who_sends_and_the_model_arrives(lan, peers):
    """The operator's limit, not the link's: packets of the bridge are counted."""
    publisher = Publisher(peers, ORIGIN)
    peers.configure(ORIGIN, mesh="bytes_per_s = 200000", more='[publish]\nfolder = "repository"\n')
    peers.start(ORIGIN, "bert")
    until(lambda: all(peers.view(name).get("bert") == "alive" for name in (ORIGIN, "bert")), peers)
    began, before = time.monotonic(), _sent(peers.machines[ORIGIN])
    data = publisher.publish(1_000_000)
    until(lambda: publisher.has("bert", data), peers)
    took_s, sent = time.monotonic() - began, _sent(peers.machines[ORIGIN]) - before
    assert 1_000_000 <= sent <= 1_000_000 + 200_000 * took_s
    assert sent / took_s <= 200_000 * 1.5 + 300_000 / took_s  # a bucket's first fill, headers, acknowledgements


def _sent(machine):
    return int(machine.run("cat", "/sys/class/net/eth0/statistics/tx_bytes"))
