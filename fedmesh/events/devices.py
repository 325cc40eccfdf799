"""Devices of a fleet, as their coordinator and as they themselves see them."""

from dataclasses import dataclass

from fedmesh.events.base import Event

__all__ = [
    "AvailabilityChanged",
    "CertificateRenewed",
    "DeviceAnswered",
    "DeviceSeen",
    "InstructionRefused",
    "OfferAnswered",
    "PacketRefused",
    "ReplyKept",
    "ReplyPosted",
    "TrainingBegun",
]


@dataclass(frozen=True, slots=True)
class DeviceSeen(Event):
    """A device of the fleet says how it is. `why` it is not available: one word, nothing of its data."""

    device: str
    tier: str
    available: bool
    why: str


@dataclass(frozen=True, slots=True)
class DeviceAnswered(Event):
    """A device takes part in a run from now on, or does not: `why` is one word."""

    device: str
    accepted: bool
    why: str


@dataclass(frozen=True, slots=True)
class PacketRefused(Event):
    """A packet came that is not taken; `code` says why, `sender` is who the transport says it is from."""

    sender: str
    code: str


@dataclass(frozen=True, slots=True)
class InstructionRefused(Event):
    """A device does not do what its coordinator asked; `code` is the word that it answers, or why its app refused."""

    run: int
    code: str


@dataclass(frozen=True, slots=True)
class OfferAnswered(Event):
    """A device was offered a run and took it, or declined with one word."""

    run: int
    name: str
    declined: str


@dataclass(frozen=True, slots=True)
class TrainingBegun(Event):
    """A device begins to train: what follows may be charged to its ledger."""

    run: int
    round: int


@dataclass(frozen=True, slots=True)
class ReplyKept(Event):
    """A device has a message's reply on its disk; `error` is empty or one word."""

    run: int
    round: int
    what: str
    error: str


@dataclass(frozen=True, slots=True)
class ReplyPosted(Event):
    """A device's reply is the transport's."""

    run: int


@dataclass(frozen=True, slots=True)
class AvailabilityChanged(Event):
    """A device became able to train, or unable, for a reason of one word."""

    why: str


@dataclass(frozen=True, slots=True)
class CertificateRenewed(Event):
    """A device has a new certificate."""
