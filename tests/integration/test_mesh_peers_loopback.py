"""Members as processes without any namespace, as an example runs them where it is not root."""

import pytest
import quick_peer
from mesh_hosts import see, until

from fedmesh.testing.mesh_peers import MeshPeers

pytestmark = pytest.mark.slow


def test_members_on_loopback_and_one_that_is_enrolled_later(tmp_path):
    with MeshPeers(tmp_path, "anna", "bert", command=quick_peer.COMMAND) as peers:
        peers.start()
        until(lambda: see(peers, ("anna", "bert")), peers)
        peers.enrol("cleo")
        peers.spread(["cleo"])  # it brings the roster on which it is
        peers.configure("cleo")
        assert peers.status("cleo") == {}
        peers.start("cleo")
        until(lambda: see(peers, ("anna", "bert", "cleo")), peers)
        assert {event["source"] for event in peers.told("anna", "ListAccepted")} == {"neighbour"}
        assert peers.told("cleo")
        assert peers.said("cleo") == ""
