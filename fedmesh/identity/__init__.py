"""Who is who in a mesh: certificates, enrolment with single-use tokens, a signed roster and a signed revocation list.

Sans-IO but for the files of an authority (`open_issuer`) and of an enrolled party (`Membership`). docs/identity.md says
what is protected, from whom, and what an operator does on which day.

What only an authority or an enrolment needs is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.errors import IdentityError
from fedmesh.identity.certificates import due
from fedmesh.identity.chain import Authority, Peer, check_peer
from fedmesh.identity.lists import Revocations, Roster, to_cut
from fedmesh.identity.membership import Membership
from fedmesh.identity.names import Name
from fedmesh.identity.timefloor import TimeFloor
from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.identity.authority_folder import create_authority, open_authority, open_issuer, replace_issuer
    from fedmesh.identity.enrolment import Enrolment, offline_request
    from fedmesh.identity.issuer import Issuer
    from fedmesh.identity.tokens import Token

__all__ = [
    "Authority",
    "Enrolment",
    "IdentityError",
    "Issuer",
    "Membership",
    "Name",
    "Peer",
    "Revocations",
    "Roster",
    "TimeFloor",
    "Token",
    "check_peer",
    "create_authority",
    "due",
    "offline_request",
    "open_authority",
    "open_issuer",
    "replace_issuer",
    "to_cut",
]

_HOME = {
    "Enrolment": "enrolment",
    "Issuer": "issuer",
    "Token": "tokens",
    "create_authority": "authority_folder",
    "offline_request": "enrolment",
    "open_authority": "authority_folder",
    "open_issuer": "authority_folder",
    "replace_issuer": "authority_folder",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
