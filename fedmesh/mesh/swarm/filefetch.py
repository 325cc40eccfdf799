"""One small file, piece by piece, of one neighbour at a time: metadata, a manifest, a golden set.

What has its SHA-256 in its name is verified with the last piece, and asked of the next neighbour if it is wrong.
Metadata is of one neighbour only, who answers for it: its signatures are checked by who asked.
"""

from dataclasses import dataclass, field

from fedmesh.mesh.swarm.messages import PIECE_BYTES, Piece

__all__ = ["FileFetch"]


@dataclass(slots=True)
class FileFetch:
    """`name`, of at most `max_bytes`; `guide`: who is asked first; `alone`: and nobody else.

    Attributes:
        tried: who was asked; peer: who is; number: under which.
    """

    name: str
    max_bytes: int
    guide: str
    alone: bool
    tried: set[str] = field(default_factory=set)
    peer: str = ""
    number: int = -1
    _size: int = -1
    _parts: bytearray = field(default_factory=bytearray)

    def begin(self, peer: str) -> None:
        """From the beginning, of this one."""
        self.peer, self._size = peer, -1
        self.tried.add(peer)
        self._parts.clear()

    @property
    def next_piece(self) -> tuple[int, int]:
        """Offset and length of what to ask for. One byte more than is possible, if need be: what is too long shows."""
        offset = len(self._parts)
        end = self._size if self._size >= 0 else self.max_bytes + 1
        return offset, max(1, min(PIECE_BYTES, end - offset))

    def take(self, piece: Piece) -> bool | None:
        """Takes in the piece that was asked for; True: that was the last, None: it cannot be of this file."""
        offset, length = self.next_piece
        if self._size not in {-1, piece.size} or piece.size > self.max_bytes:
            return None
        self._size = piece.size
        if not piece.data or len(piece.data) != min(length, piece.size - offset):
            return None
        self._parts += piece.data
        return len(self._parts) == self._size

    @property
    def data(self) -> bytes:
        """What came."""
        return bytes(self._parts)
