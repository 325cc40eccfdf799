"""What is asked of members on machines of their own: whether all agree, and whether a model is there."""

import hashlib
import time
from collections.abc import Callable, Iterable

from registry_worlds import weights

from fedmesh.registry import Slots
from fedmesh.registry.describing import Facts
from fedmesh.registry.founding import create
from fedmesh.testing.mesh_peers import MeshPeers

PUBLISHES = '[publish]\nfolder = "repository"\n'
TAKES = '[registry]\ntrusted_root = "root.json"\n'


def until(done: Callable[[], object], peers: MeshPeers, within_s: float = 90.0) -> None:
    ends = time.monotonic() + within_s
    while not done():
        if time.monotonic() >= ends:
            views = "\n".join(f"{name}: {peers.view(name)} {peers.models(name)}" for name in peers.members)
            words = "\n".join(f"--- {name}\n{peers.said(name)}" for name in peers.members)
            raise AssertionError(f"it did not come to pass within {within_s} s\n{views}\n{words}")
        time.sleep(0.1)


def see(peers: MeshPeers, names: Iterable[str], **states: str) -> bool:
    """Whether each of `names` sees everybody alive, but for `states`."""
    wanted = {**dict.fromkeys(peers.members, "alive"), **states}
    return all(peers.view(name) == wanted for name in names)


class Publisher:
    """A repository that one member publishes from."""

    def __init__(self, peers: MeshPeers, origin: str) -> None:
        self.peers, self.version = peers, 0
        self.repository = create(peers.folder / "repository")
        (peers.folder / "root.json").write_bytes(self.repository.root_bytes())
        for name in peers.members:
            peers.configure(name, more=PUBLISHES if name == origin else TAKES)

    def publish(self, size: int) -> bytes:
        """The next version: bytes that nothing makes shorter."""
        self.version += 1
        data = weights(self.version, size)
        path = self.peers.folder / "model.onnx"
        path.write_bytes(data)
        self.repository.publish(path, Facts(task="digits", round=self.version))
        return data

    def has(self, name: str, data: bytes) -> bool:
        """Whether this member runs that very model."""
        current = Slots(self.peers.state(name) / "registry" / "slots").current
        try:
            found = b"" if current is None else current.read_bytes()
        except OSError:  # the slot is being filled anew
            return False
        return hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
