"""What parties are called: ``fedmesh://MESH/ID``, one URI in a certificate, the id again as its common name.

Both parts are made of letters that mean nothing to a topic, a path, a shell or a URI, so no place where a name is used
has to escape it; and lower case alone, so that two names do not meet in one file.
"""

import re
from dataclasses import dataclass
from typing import Self

from fedmesh.errors import IdentityError

__all__ = ["CA", "MAX_CHARACTERS", "Name", "checked_id", "is_id"]

CA = "ca"
"""The id that the certificate authority's own server goes by; nobody is enrolled under it."""

MAX_CHARACTERS = 63
_SCHEME = "fedmesh://"
_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Name:
    """A party of a mesh. Raises: IdentityError (``name``): one of the parts is not a name."""

    mesh: str
    id: str

    def __post_init__(self) -> None:
        checked_id(self.mesh, "a mesh")
        checked_id(self.id, "a device")

    @property
    def uri(self) -> str:
        """As it stands in a certificate."""
        return f"{_SCHEME}{self.mesh}/{self.id}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The name that `uri` spells. Raises: IdentityError (``name``): it spells none."""
        mesh, slash, identifier = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not slash:
            raise IdentityError(f"{uri[:80]!r} is no name: wanted {_SCHEME}MESH/ID", code="name")
        return cls(mesh, identifier)

    def __str__(self) -> str:
        return self.uri


def is_id(text: str) -> bool:
    """Whether `text` may be the name of a device, a server or a mesh."""
    return _ID.fullmatch(text) is not None


def checked_id(text: object, what: str = "a device") -> str:
    """`text`, if it may be the name of `what`. Raises: IdentityError (``name``): it may not."""
    if not isinstance(text, str) or not is_id(text):
        raise IdentityError(
            f"{text!r:.80} is no name of {what}: 1 to {MAX_CHARACTERS} of a-z, 0-9, '.', '_' and '-', with a letter or "
            "digit at both ends",
            code="name",
        )
    return text
