"""Who may ask: members of the mesh, checked after the handshake and again while their connections live."""

import ssl
import time
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.identity import Membership, Peer
from fedmesh.transport.tls import accepting

__all__ = ["Guard"]

_DAY_S = 86_400


class Guard:
    """Knows the connections that are open, and whom they are with.

    Args:
        folder: this node's identity, which others may renew: it is read again by `refresh`.
        clock: seconds since 1970.

    Attributes:
        context: TLS that demands a certificate of this mesh.
        counts: connections refused, by the code of `IdentityError`; ``handshake``: by TLS, before there was anybody to
            look at: no certificate, or one of another authority; ``cut``: those that ended later.

    Raises:
        ConfigError: nobody is enrolled there, or the folder is damaged.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self.membership = Membership(folder)
        self.context = accepting(self.membership.tls_path, self.membership.root_path, required=True)
        self.counts: Counter[str] = Counter()
        self.context.sslobject_class = _counting(self.counts)
        self._sessions: dict[Hashable, Peer] = {}
        self._seen = self._stamps()

    def admit(self, session: Hashable, leaf: bytes | None) -> Peer:
        """Who is behind a handshake; the session is kept until `left`. Raises: IdentityError: nobody of this mesh."""
        try:
            peer = self.membership.check([leaf] if leaf else [], expected=None, clock=self._clock(), server=True)
        except IdentityError as error:
            self.counts[error.code] += 1
            raise
        self._sessions[session] = peer
        return peer

    def left(self, session: Hashable) -> None:
        """The connection ended."""
        self._sessions.pop(session, None)

    def refresh(self) -> dict[Hashable, str]:
        """Reads what is new in the folder; returns the sessions that must end now, and why.

        Raises:
            ConfigError: the folder is damaged; what was read before stays in force.
        """
        stamps = self._stamps()
        if stamps != self._seen:
            membership = Membership(self._folder)
            try:
                self.context.load_cert_chain(membership.tls_path)
            except OSError as error:
                raise ConfigError(f"{membership.tls_path} cannot be used: {error}") from error
            self.membership, self._seen = membership, stamps
        cut = self.membership.to_cut(self._sessions, self._clock())
        if cut:
            self.counts["cut"] += len(cut)
        return cut

    def not_ready(self) -> str:
        """A check for ``/readyz``: the certificate is good for a day."""
        left = self.membership.leaf.not_valid_after_utc.timestamp() - self.membership.now(self._clock())
        return "" if left >= _DAY_S else f"the certificate ends in {left / 3600:.1f} hours: renew it"

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in ("tls.pem", "roster.signed", "revocations.signed"):
            try:
                status = (self._folder / name).stat()
            except OSError:  # `Membership` says what is wrong
                continue
            found[name] = (status.st_ino, status.st_mtime_ns)
        return found


def _counting(counts: Counter[str]) -> type[ssl.SSLObject]:
    """TLS that counts handshakes that fail: an event loop tells nobody of them."""

    class Handshake(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError:
                counts["handshake"] += 1
                raise

    return Handshake
