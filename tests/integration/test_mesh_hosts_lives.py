"""What happens to a member on a machine of its own: it stands still, is killed and started again, or moves."""

import signal

import pytest
import quick_peer
from mesh_hosts import see, until
from network_namespaces import Lan, require_namespaces

from fedmesh.mesh.discovery import Book
from fedmesh.testing.mesh_peers import PORT, MeshPeers

require_namespaces()

pytestmark = pytest.mark.exhaustive

NAMES = ("anna", "bert", "cleo")
OTHERS, ONE = NAMES[:2], NAMES[2]


@pytest.fixture
def peers(tmp_path):
    with Lan() as lan, MeshPeers(tmp_path, *NAMES, lan=lan, command=quick_peer.COMMAND) as made:
        made.start()
        until(lambda: see(made, NAMES), made)
        yield made


def everybody_has(peers, incarnation):
    return see(peers, NAMES) and all(peers.incarnations(name)[ONE] > incarnation for name in NAMES)


def test_who_stands_still_or_is_killed_comes_back(peers):
    before = peers.incarnations(ONE)[ONE]
    peers.freeze(ONE)
    until(lambda: see(peers, OTHERS, **{ONE: "dead"}), peers)
    peers.thaw(ONE)
    until(lambda: everybody_has(peers, before), peers)
    held = {event["state"] for event in peers.told(ONE, "MemberChanged")}
    assert "dead" not in held, "it held the time that it missed against the others"

    before = peers.incarnations(ONE)[ONE]
    assert peers.kill(ONE) == -9
    peers.start(ONE)  # nobody may have missed it
    until(lambda: everybody_has(peers, before), peers)
    before = peers.incarnations(ONE)[ONE]
    peers.kill(ONE)
    until(lambda: see(peers, OTHERS, **{ONE: "dead"}), peers)
    peers.start(ONE)
    until(lambda: everybody_has(peers, before), peers)


def test_who_gets_another_address_while_it_runs_is_found_there(peers):
    before, machine = peers.incarnations(ONE)[ONE], peers.machines[ONE]
    machine.remove("10.77.0.3/24")
    machine.add("10.77.0.33/24")
    until(lambda: everybody_has(peers, before), peers)

    def is_known():
        """It says so itself, when it has looked at its interfaces; who heard it keeps it in a book when it ends."""
        until(lambda: peers.view("bert").get(ONE) == "alive", peers)
        assert peers.kill("bert", signal.SIGTERM) == 0
        peers.start("bert")
        return ("10.77.0.33", PORT) in Book(peers.state("bert") / "addresses").addresses(ONE)

    until(is_known, peers)
    until(lambda: ONE in peers.status("bert").get("links", ()), peers)
