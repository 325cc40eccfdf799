"""The TLS contexts of a member, made anew when its certificate was: each connection is made with the one of then."""

import ssl
from collections.abc import Callable

from fedmesh.errors import ConfigError
from fedmesh.identity import Membership
from fedmesh.transport.framing import told
from fedmesh.transport.tls import accepting, dialling

__all__ = ["Contexts"]


class Contexts:
    """Of one identity folder. Every method raises ConfigError where a file of it is missing or damaged."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._version: tuple[int, int] | None = None
        self._dialling: ssl.SSLContext | None = None
        self._accepting: ssl.SSLContext | None = None

    def load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For dialling, and for being dialled."""
        tls, root = self._membership.tls_path, self._membership.root_path
        try:
            found = tls.stat()
        except OSError as error:
            raise ConfigError(f"cannot read our certificate {tls}: {told(error)}") from error
        version = found.st_mtime_ns, found.st_ino
        if self._dialling is None or self._accepting is None or self._version != version:
            self._dialling = dialling(tls, root)
            self._accepting = accepting(tls, root, required=True, times=False)
            self._version = version
        return self._dialling, self._accepting

    @property
    def dialling(self) -> Callable[[], ssl.SSLContext]:
        """Gives the context of a connection that we make."""
        return lambda: self.load()[0]

    @property
    def accepting(self) -> Callable[[], ssl.SSLContext]:
        """Gives the context of a connection that somebody makes to us."""
        return lambda: self.load()[1]
