"""What a device does with a request: a place in the queue, then a piece of a public file, or the reason why not."""

from collections.abc import Callable

from fedmesh.errors import RegistryError
from fedmesh.mesh.swarm.holdings import Holdings
from fedmesh.mesh.swarm.messages import Message, Piece, Refusal, Request
from fedmesh.mesh.swarm.neighbours import Neighbours
from fedmesh.mesh.swarm.uploads import Uploads
from fedmesh.registry.source import check_name

__all__ = ["Giving"]


class Giving:
    """Answers requests out of `holdings`, in the order of `uploads`; refusals are counted by reason."""

    def __init__(
        self, holdings: Holdings, neighbours: Neighbours, uploads: Uploads, post: Callable[[str, Message], None]
    ) -> None:
        self._holdings, self._neighbours, self._uploads, self._post = holdings, neighbours, uploads, post

    def asked(self, peer: str, request: Request) -> None:
        """A request came."""
        try:
            check_name(request.name)
        except RegistryError:
            self._refuse(peer, request, "name")
            return
        if not self._uploads.ask(peer, request):
            self._refuse(peer, request, "busy")

    def pump(self, now: float) -> None:
        """Serves as many as there are free places."""
        while (item := self._uploads.next(now)) is not None:
            peer, request = item
            data = self._holdings.read(request.name)
            if data is None:
                self._refuse(peer, request, "unknown")
            elif request.offset >= len(data):
                self._refuse(peer, request, "range")
            else:
                piece = data[request.offset : request.offset + request.length]
                self._uploads.handed(peer, len(piece), now)
                self._post(peer, Piece(request.number, len(data), piece))

    def _refuse(self, peer: str, request: Request, code: str) -> None:
        self._neighbours.counts[code] += 1
        self._post(peer, Refusal(request.number, code))
