"""News to be passed on: each statement a limited number of times, those least often sent first (SWIM 4.1)."""

from fedmesh.mesh.membership.statements import Statement

__all__ = ["Broadcasts"]

_Key = tuple[str, str]


class Broadcasts:
    """The queue of one member. An alive or left takes the place of all that was to be said of its subject."""

    def __init__(self) -> None:
        self._levels: list[dict[_Key, bytes]] = []  # by how often they were sent
        self._at: dict[str, dict[str, int]] = {}  # subject -> author -> level

    def __bool__(self) -> bool:
        return bool(self._at)

    def put(self, statement: Statement, *, sent: int = 0) -> None:
        """To be sent, from now on, as if it had been `sent` so often already."""
        if not statement.is_accusation:
            self.drop(statement.subject)
        self._remove(statement.subject, statement.author)
        self._insert(statement.subject, statement.author, statement.raw, sent)

    def drop(self, subject: str) -> None:
        """Nothing more of `subject`."""
        for author in list(self._at.get(subject, ())):
            self._remove(subject, author)

    def pick(self, max_bytes: int, limit: int) -> list[bytes]:
        """Statements of at most `max_bytes` in all, sent once more by that; after `limit` times they are forgotten."""
        picked: list[tuple[_Key, bytes, int]] = []
        left = max_bytes
        for level, waiting in enumerate(self._levels):
            for key, raw in waiting.items():
                if len(raw) + 3 > left:
                    break
                picked.append((key, raw, level))
                left -= len(raw) + 3  # and the head of a byte string
            else:
                continue
            break
        for (subject, author), raw, level in picked:
            self._remove(subject, author)
            if level + 1 < limit:
                self._insert(subject, author, raw, level + 1)
        return [raw for _, raw, _ in picked]

    def _insert(self, subject: str, author: str, raw: bytes, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append({})
        self._levels[level][subject, author] = raw
        self._at.setdefault(subject, {})[author] = level

    def _remove(self, subject: str, author: str) -> None:
        authors = self._at.get(subject, {})
        if author in authors:
            del self._levels[authors.pop(author)][subject, author]
            if not authors:
                del self._at[subject]
