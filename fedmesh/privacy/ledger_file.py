"""A ledger's file, read whole and checked entry by entry, without holding or changing it. Loads no numpy.

A device that charges at the same time is not disturbed; its entry is then among those that were read or not.
"""

from pathlib import Path

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy.chain import Chain, parse
from fedmesh.privacy.entries import Opening

__all__ = ["read_ledger"]

_MOST_BYTES = 1 << 28
"""A million charges: whoever looks at foreign files should not have to hold more."""


def read_ledger(path: Path) -> tuple[Opening, Chain, int]:
    """Entry 0, all entries, and the bytes of an interrupted write at the end, which the next opening will cut off.

    Raises:
        ConfigError: it cannot be read.
        LedgerError: it is damaged, or holds no entry.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the privacy ledger {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise LedgerError(f"{path} is larger than {_MOST_BYTES} bytes: no device wrote such a ledger")
    chain = parse(data)
    if chain.opening is None:
        raise LedgerError("the file is empty, or its first entry was not written to the end: there is no ledger")
    return chain.opening, chain, len(data) - chain.size
