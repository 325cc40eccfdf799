"""The one error tree: who has to act decides the branch.

::

    FedMeshError
    ├── PeerError      drop the peer: what it sent is malformed, oversized or out of turn
    │   ├── DecodeError    bytes that are not a valid message
    │   ├── DeliveryError  a message did not get to its peer
    │   ├── FileError      a peer's file is not to be had
    │   ├── IdentityError  who it says it is, or what it shows for it, is refused
    │   ├── RegistryError  a model, or what says that it may run, is refused
    │   ├── ChainError     a run's charter, or a result of it, does not follow from what a quorum has signed
    │   └── RequestError   a request that is not answered: the status and the advice go back to who sent it
    ├── RoundError     this round failed; the next may not
    │   ├── NothingLearnedError  every round of the run failed: it is over
    │   ├── QuorumError    too few survivors
    │   └── SecAggError    secure aggregation was refused, or cannot go on; nobody learned anything
    ├── TrustError     stop: a promise would be broken
    │   ├── BudgetError    the privacy budget does not cover the step
    │   ├── LedgerError    the privacy ledger is damaged, or cannot be written
    │   └── MismatchError  the exported model is not the trained one
    ├── StoppedError   an operator ended it: nothing is wrong, and it can go on
    └── ConfigError    the operator has to change something; the command exits with 2
        ├── UnsupportedLayerError  a layer that has no int8 kernel
        ├── NotFiniteError a model's logits are not finite: go back to the one before
        └── DataError      a data set is missing, malformed or not finite

A message says what was got, what was wanted and what to do. Errors of wrapped libraries stop at the adapter that wraps
them and travel as ``__cause__``.
"""

__all__ = [
    "IDENTITY_CODES",
    "REGISTRY_CODES",
    "BudgetError",
    "ChainError",
    "ConfigError",
    "DataError",
    "DecodeError",
    "DeliveryError",
    "FedMeshError",
    "FileError",
    "IdentityError",
    "LedgerError",
    "MismatchError",
    "NotFiniteError",
    "NothingLearnedError",
    "PeerError",
    "QuorumError",
    "RegistryError",
    "RequestError",
    "RoundError",
    "SecAggError",
    "StoppedError",
    "TrustError",
    "UnsupportedLayerError",
]


class FedMeshError(Exception):
    """Root of every error that fedmesh raises on purpose."""


class PeerError(FedMeshError):
    """A peer sent what it must not: drop it."""


class DecodeError(PeerError):
    """Bytes that are not a valid message of the expected kind."""


IDENTITY_CODES = frozenset(
    [
        "malformed",
        "authority",
        "issuer",
        "early",
        "expired",
        "usage",
        "name",
        "peer",
        "key",
        "revoked",
        "token",
        "request",
        "proof",
        "limit",
        "rollback",
        "fork",
        "replay",
    ]
)
"""What an `IdentityError` can be about: few enough for the label of a counter."""


class IdentityError(PeerError):
    """A certificate, a token, a signed list or a request to the issuer is refused.

    Attributes:
        code: what it is about, one of `IDENTITY_CODES`.
    """

    def __init__(self, message: str, *, code: str = "malformed") -> None:
        super().__init__(message)
        self.code = code


REGISTRY_CODES = frozenset(
    [
        "malformed",
        "signature",
        "rollback",
        "expired",
        "hash",
        "oversize",
        "missing",
        "name",
        "delta",
        "variant",
        "downgrade",
        "failed",
        "probe",
    ]
)
"""What a `RegistryError` can be about: few enough for the label of a counter."""


class RegistryError(PeerError):
    """A model, its manifest or the metadata that says it may run is refused; what runs goes on running.

    Attributes:
        code: what it is about, one of `REGISTRY_CODES`.
    """

    def __init__(self, message: str, *, code: str = "malformed") -> None:
        super().__init__(message)
        self.code = code


class DeliveryError(PeerError):
    """A message did not get to its peer: refused there, expired on the way, or the transport was closed.

    Attributes:
        peer: whom it was for.
    """

    def __init__(self, message: str, *, peer: str) -> None:
        super().__init__(message)
        self.peer = peer


class FileError(PeerError):
    """A file of a peer is not to be had: there is none, it is too long, or did not come in time.

    Attributes:
        code: one of `fedmesh.transport.file_messages.FILE_CODES`, ``timeout`` or ``closed``.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ChainError(PeerError):
    """A charter, a result or a certificate of a run is refused; what is known already stays.

    Attributes:
        code: ``charter``, ``quorum`` (too few signatures, or wrong ones), ``parent`` (it follows another result) or
            ``round`` (one in between is missing).
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class RequestError(PeerError):
    """A request over HTTP that is not answered.

    Attributes:
        status: of HTTP.
        got, wanted, do: what came, what is taken, and what to do; for who sent the request.
    """

    def __init__(self, status: int, *, got: str, wanted: str, do: str) -> None:
        super().__init__(f"{got}; wanted {wanted}: {do}")
        self.status = status
        self.got, self.wanted, self.do = got, wanted, do


class RoundError(FedMeshError):
    """This round failed; the next may succeed."""


class NothingLearnedError(RoundError):
    """Every round of a run failed. The run is over: to go on with it leads here again."""


class QuorumError(RoundError):
    """Fewer updates arrived than the quorum asks for."""

    def __init__(self, message: str, *, arrived: int, wanted: int) -> None:
        super().__init__(message)
        self.arrived = arrived
        self.wanted = wanted


class SecAggError(RoundError):
    """Secure aggregation was refused by a device, or cannot go on: whatever the reason, no input was revealed.

    Attributes:
        code: what it is about: ``malformed``, ``signature``, ``identity``, ``policy``, ``ring``, ``weight``, ``input``,
            ``replay``, ``turn``, ``session``, ``consistency``, ``threshold``, ``shares`` or ``store``.
    """

    def __init__(self, message: str, *, code: str = "malformed") -> None:
        super().__init__(message)
        self.code = code


class TrustError(FedMeshError):
    """Going on would break a promise: stop."""


class BudgetError(TrustError):
    """The privacy budget does not cover the step that was asked for."""


class LedgerError(TrustError):
    """The privacy ledger is damaged or cannot be made durable."""


class MismatchError(TrustError):
    """The exported model does not compute what the trained model computes."""


class StoppedError(FedMeshError):
    """An operator ended it; what was finished is kept."""


class ConfigError(FedMeshError):
    """The operator's mistake, in configuration, arguments or files."""


class UnsupportedLayerError(ConfigError):
    """A layer that the int8 pipeline cannot represent; the message names it and what to use."""


class NotFiniteError(ConfigError):
    """A model's logits are not finite."""


class DataError(ConfigError):
    """A data set is missing, malformed or holds values that are not finite."""
