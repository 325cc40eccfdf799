"""Members on machines of their own find each other with no seed. The command is the operator's, with its own times."""

import json
import signal
import subprocess
import sys

import pytest
from mesh_hosts import see, until
from network_namespaces import Lan, require_namespaces

from fedmesh.testing.mesh_peers import MeshPeers

require_namespaces()

pytestmark = pytest.mark.slow

NAMES = ("anna", "bert", "cleo")


@pytest.fixture
def lan():
    with Lan() as made:
        yield made


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
def test_without_seeds_they_find_each_other_by_multicast(lan, tmp_path, ipv6):
    with MeshPeers(tmp_path, *NAMES, lan=lan, ipv6=ipv6) as peers:
        for name in NAMES:
            peers.configure(name, seeds=[], discovery=True)
        peers.start()
        until(lambda: see(peers, NAMES), peers)
        until(lambda: all(len(peers.status(name)["links"]) == 2 for name in NAMES), peers)
        sources = {event["source"] for name in NAMES for event in peers.told(name, "PeerFound")}
        assert "nearby" in sources
        assert "seed" not in sources

        def shown():
            command = [sys.executable, "-m", "fedmesh", "mesh", "status", str(tmp_path / "anna.toml"), "--json"]
            return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

        until(lambda: shown() == peers.status("anna"), peers)  # somebody may be suspected between the two
        assert [peers.kill(name, signal.SIGTERM) for name in NAMES] == [0, 0, 0]
        assert "Traceback" not in "".join(peers.said(name) for name in NAMES)
