"""Under which key a member signs: by the newest roster, and nobody whose certificate is revoked."""

from fedmesh.identity import Membership

__all__ = ["RosterKeys"]


class RosterKeys:
    """Name -> Ed25519 key, of the lists that `membership` has at that moment."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._lists: tuple[object, object] = (None, None)
        self._keys: dict[str, bytes] = {}

    def __call__(self, name: str) -> bytes | None:
        """The key of `name`; None: it is not on the roster, or revoked."""
        roster, revocations = self._membership.roster, self._membership.revocations
        if self._lists[0] is not roster or self._lists[1] is not revocations:
            rows = roster.enrolled.items()
            self._keys = {known: row.signing_key for known, row in rows if not revocations.revoked(row.serial)}
            self._lists = roster, revocations
        return self._keys.get(name)
