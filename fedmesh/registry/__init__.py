"""Signed model versions: published, announced, fetched, verified, put into a slot, probed, and rolled back.

What may run is said by TUF metadata (python-tuf), what it consists of by manifests of content-addressed chunks, and
what runs by two slots. Import the two sides by their modules, `fedmesh.registry.repository` and
`fedmesh.registry.install`: TUF is loaded with them; who only watches `fedmesh.registry.slots` does without.
docs/delivery.md says what is refused and why.
"""

from fedmesh.registry.describing import Facts, File
from fedmesh.registry.golden import GoldenSet
from fedmesh.registry.limits import Limits
from fedmesh.registry.manifest import Manifest
from fedmesh.registry.pointer import Pointer
from fedmesh.registry.rollout import Rollout
from fedmesh.registry.slots import Slots
from fedmesh.registry.source import FolderSource, Source

__all__ = ["Facts", "File", "FolderSource", "GoldenSet", "Limits", "Manifest", "Pointer", "Rollout", "Slots", "Source"]
