"""Values of a label that can only be so many: a time series is never freed, so nobody may invent one at will."""

import re
from threading import Lock

__all__ = ["OTHER", "BoundedLabel"]

OTHER = "other"
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class BoundedLabel:
    """Lets the first `limit` short words through as they are; what is no word, or comes later, is ``other``."""

    def __init__(self, limit: int = 32) -> None:
        self._limit, self._known, self._lock = limit, set[str](), Lock()

    def __call__(self, text: str) -> str:
        """`text`, or ``other``."""
        if _WORD.fullmatch(text) is None:
            return OTHER
        with self._lock:
            if text not in self._known and len(self._known) >= self._limit:
                return OTHER
            self._known.add(text)
        return text
