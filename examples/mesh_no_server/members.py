"""Who is who: an authority, six members that train, one of which publishes models, and one that comes late."""

from pathlib import Path

from fedmesh.registry.founding import create
from fedmesh.testing.mesh_peers import MeshPeers
from fedmesh.testing.namespaces import Lan

TRAINING = ("anna", "bert", "cleo", "dora", "emil", "fred")
LATE = "gwen"
ALL = (*TRAINING, LATE)
PUBLISHER = "anna"


def founded(folder: Path, lan: Lan | None) -> MeshPeers:
    """All are enrolled, and have a file each; the publisher has a repository, and the right to start runs."""
    create(folder / "repository")
    root = (folder / "repository/public/metadata/1.root.json").read_bytes()
    (folder / "root.json").write_bytes(root)  # carried to each member by hand, with the installation
    peers = MeshPeers(folder, *ALL, lan=lan)
    peers.issuer.grant(PUBLISHER, "runs")
    peers.spread(ALL)
    for name in ALL:
        # Who comes late has to find somebody when the publisher, everybody's seed, is gone.
        seeds = TRAINING[1:3] if name == LATE else None
        peers.configure(name, seeds=seeds, more=_learning(name) + _models(name))
    return peers


def _learning(name: str) -> str:
    """A part of a real data set, in place of what a device has measured."""
    if name == LATE:
        return ""
    number = TRAINING.index(name)
    return f'[data]\nkind = "dataset"\nname = "digits"\npartition = {number}\nof = {len(TRAINING)}\n'


def _models(name: str) -> str:
    if name == PUBLISHER:
        return '[publish]\nfolder = "repository"\n'
    return '[registry]\ntrusted_root = "root.json"\n'
