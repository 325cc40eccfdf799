"""The registry's source over a swarm: it gives what is here, and remembers the first thing that is not.

`Installer.update` blocks, a swarm does not. So it is called again whenever what it lacked has come, and gets as far as
the next thing that it lacks; what it had before is there at once. Its checks are those of a fleet, all of them.
"""

from fedmesh.errors import FileError, RegistryError
from fedmesh.mesh.swarm.held import Held
from fedmesh.registry.source import check_name

__all__ = ["SwarmSource"]


class SwarmSource:
    """A `fedmesh.registry.Source` out of `held`, and out of the metadata of one neighbour that is being looked at.

    Attributes:
        wanted: name and longest length of what was asked for in this pass and is not here; None: all is.
        files: metadata of the neighbour that is looked at: not verified, and given to nobody.
        gone: what is not to be had in this look.
        vouched: whether a target was asked for in this look: all metadata before it is verified.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self.wanted: tuple[str, int] | None = None
        self.files: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.vouched = False

    def look(self) -> None:
        """A look at another neighbour's metadata begins."""
        self.files, self.gone, self.vouched, self.wanted = {}, set(), False, None

    def begin(self) -> None:
        """`update` is called next."""
        self.wanted = None

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        """What the file holds.

        Raises:
            RegistryError: ``name``; ``missing``: nobody has it; ``oversize``.
            FileError: ``busy``: it is on its way, and so is nothing behind it; `update` is to be called again.
        """
        check_name(name)
        if self.wanted is not None:  # a root that is on its way must not look like the last one
            raise FileError(f"{self.wanted[0]} is on its way, {name} is asked for after it", code="busy")
        if name.startswith("targets/"):
            self.vouched = True
        if name in self.gone:
            raise RegistryError(f"no neighbour has {name}", code="missing")
        data = self.files.get(name) if name.startswith("metadata/") else self._held.read(name)
        if data is None:
            self.wanted = name, max_bytes
            raise FileError(f"{name} is on its way", code="busy")
        if len(data) > max_bytes:
            raise RegistryError(f"{name} has {len(data)} bytes, {max_bytes} are read", code="oversize")
        return data
