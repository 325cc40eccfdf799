"""What a device has beside its identity from the first day: the anchor of its privacy ledgers, and a pinned roster."""

from pathlib import Path

from fedmesh.client.identities import anchor_path
from fedmesh.errors import ConfigError
from fedmesh.identity import Enrolment, Membership, Token
from fedmesh.identity.membership import signing_key_path
from fedmesh.privacy import Anchor
from fedmesh.secagg import Roster

__all__ = ["begin_enrolment", "pinned_roster"]


def begin_enrolment(folder: Path, token: Token) -> Enrolment:
    """`Enrolment.begin`, with the anchor of the ledgers made before the Ed25519 key, and never again.

    Raises:
        ConfigError: the folder cannot be written, is damaged, or is another device's.
    """
    device = token.name.id
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}; check its permissions") from error
    if not signing_key_path(folder, device).exists():
        Anchor.create(anchor_path(folder, device))
    return Enrolment.begin(folder, token)


def pinned_roster(membership: Membership) -> Roster:
    """The keys of the newest signed roster, as secure aggregation pins them."""
    return Roster(membership.roster.keys)
