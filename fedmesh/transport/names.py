"""Names of parties as they stand in certificates, topics, access rules and file names, which have to agree."""

import re

from fedmesh.errors import ConfigError
from fedmesh.types import PeerId

__all__ = ["check_name", "is_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether `text` names a party: 1 to 64 letters, digits, ``.``, ``_`` and ``-``, the first a letter or digit."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str) -> PeerId:
    """`text` itself. Raises: ConfigError: it is not a name; a ``+``, ``#`` or ``/`` would mean others' topics."""
    if not is_name(text):
        raise ConfigError(
            f"{text[:80]!r} is not a party's name: use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', not a sign first"
        )
    return text
