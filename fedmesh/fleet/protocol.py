"""What a coordinator and its devices say to each other: the kinds of packet, and what is in each.

::

    device                                                    coordinator
      | -- here: tier, clients, available ----------------------> |   on connecting, on a change, now and then
      | <- offer: run, task, client, features ------------------- |   once a run, and again when asked for
      | -- answer: run, accepted or why not --------------------> |   the device's own policy decides
      | <- instruct: run, message, kind, round | envelope ------- |   a Flower message, folded
      | -- reply: run, message, error | envelope ---------------> |   one, or none; after a restart perhaps again
      | <- abandon: run, messages ------------------------------- |   nobody waits for these any more
      | -- report: version, outcome ----------------------------> |   of a delivered model
      | <- end: run --------------------------------------------- |   the device forgets the run

All travel as `fedmesh.identity.packets`. Fields are checked here, and unknown ones are refused.

A device says that it is here at least every `HERE_EVERY_S`. A run is offered again while nobody answers, to a device
that replied ``run``, and to everybody when the coordinator has started anew: an offer of a run that a device takes part
in already says that nothing which was asked in it before is waited for any more, and is answered as the first was.
``available`` says whether the device would begin something new; what it is doing for a run makes it no less so.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import GenericAlias
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from fedmesh.errors import DecodeError
from fedmesh.identity.names import Name

__all__ = [
    "ERRORS",
    "HERE_EVERY_S",
    "OUTCOMES",
    "REASONS",
    "TIERS",
    "Abandon",
    "Answer",
    "End",
    "Here",
    "Instruct",
    "Offer",
    "Reply",
    "Report",
    "Tier",
    "node_id_of",
]

Tier = Literal["full", "lite", "inference"]
TIERS: tuple[Tier, ...] = get_args(Tier)

REASONS = frozenset(
    {"", "battery", "busy", "budget", "client", "data", "hook", "limits", "network", "policy", "power", "schedule"}
)
"""Why a device is not available, or declines: few, and none says anything of its data."""

ERRORS = frozenset(
    {
        "",
        "crashed",  # the training process ended
        "data",  # the device's data cannot be used for this task
        "limits",  # more memory, time or work than the device lends
        "malformed",  # the message is not what it says it is
        "policy",  # the device does not do this
        "restarted",  # it was cut off while it trained, and is not begun again: it may have been paid for
        "run",  # the device has not accepted this run
        "unavailable",  # not now
    }
)
"""Why a device could not answer a message: few, and none says anything of its data."""

OUTCOMES = frozenset({"installed", "refused", "failed-probe", "rolled-back", "unreachable"})
"""What became of a delivered model on a device."""

_CLOSED = {"why": REASONS, "outcome": OUTCOMES, "error": ERRORS, "tier": frozenset(TIERS)}
HERE_EVERY_S = 60.0
"""A device that has been silent for several times as long is taken to be gone."""

_MAX_TEXT = 200
_MAX_ITEMS = 256


def node_id_of(name: Name) -> int:
    """The Flower node id of a member: the same in every run and after every restart; 2 to 2^63 - 1."""
    digest = hashlib.sha256(b"fedmesh node\x00" + name.uri.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 | 2


class _Body:
    """Fields of a packet: what `read` accepts is exactly what `plain` writes."""

    kind: ClassVar[str]

    def plain(self) -> dict[str, Any]:
        """The packet's fields."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The fields of a packet of this kind. Raises: DecodeError: they are not."""
        hints = get_type_hints(cls)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # every subclass is a dataclass
        if sorted(plain) != sorted(names):
            raise DecodeError(f"a packet {cls.kind!r} has the fields {sorted(plain)}: wanted {sorted(names)}")
        return cls(**{name: _checked(f"{cls.kind}.{name}", plain[name], hints[name]) for name in names})


@dataclass(frozen=True, slots=True)
class Here(_Body):
    """A device is there.

    Attributes:
        tier: what it can do; clients: the client apps that it would run (entry points of fedmesh.clients).
        available: whether it would train now; why: one of `REASONS`.
        model: version of the model that it runs, 0 for none; software: version of fedmesh.
    """

    kind = "here"
    tier: str
    clients: tuple[str, ...]
    available: bool
    why: str
    model: int
    software: str


@dataclass(frozen=True, slots=True)
class Offer(_Body):
    """A run that a device may take part in. The packet's parts: `Task.to_plain` as CBOR; a feature map, or nothing.

    Attributes:
        run: its Flower run id; name: of the scenario; scenario: its SHA-256, hexadecimal; rounds: of the run.
        client: the client app to run, for this device's tier.
    """

    kind = "offer"
    run: int
    name: str
    scenario: str
    rounds: int
    client: str


@dataclass(frozen=True, slots=True)
class Answer(_Body):
    """Whether a device takes part in a run; why: one of `REASONS`."""

    kind = "answer"
    run: int
    accepted: bool
    why: str


@dataclass(frozen=True, slots=True)
class Instruct(_Body):
    """A Flower message for a device. The packet's parts: an `Envelope`, its metadata first.

    Attributes:
        run: of the run; message: the message's id.
        what: its Flower message type, which the device holds against the message itself; round: of the run.
    """

    kind = "instruct"
    run: int
    message: str
    what: str
    round: int


@dataclass(frozen=True, slots=True)
class Reply(_Body):
    """The answer to a message. The packet's parts: an `Envelope`, or nothing where there is an error.

    The same answer may come again in another packet. A client app that failed answers with an envelope, of Flower's
    kind of error; `error`, one of `ERRORS`, is said by the device around it, which knows nothing of Flower.
    """

    kind = "reply"
    run: int
    message: str
    error: str


@dataclass(frozen=True, slots=True)
class Abandon(_Body):
    """Nobody waits for these messages of a run any more."""

    kind = "abandon"
    run: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class End(_Body):
    """A run is over."""

    kind = "end"
    run: int


@dataclass(frozen=True, slots=True)
class Report(_Body):
    """What became of a delivered model; outcome: one of `OUTCOMES`."""

    kind = "report"
    version: int
    outcome: str


def _checked(name: str, value: Any, wanted: Any) -> Any:
    if isinstance(wanted, GenericAlias) and get_origin(wanted) is tuple:
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            raise DecodeError(f"{name} of a packet is no list of up to {_MAX_ITEMS}")
        return tuple(_checked(name, item, get_args(wanted)[0]) for item in value)
    if type(value) is not wanted:
        raise DecodeError(f"{name} of a packet is of type {type(value).__name__}, wanted {wanted.__name__}")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise DecodeError(f"{name} of a packet has {len(value)} characters, at most {_MAX_TEXT}")
    if isinstance(value, int) and value < 0:
        raise DecodeError(f"{name} of a packet is {value}: never negative")
    closed = _CLOSED.get(name.rpartition(".")[2])
    if closed is not None and value not in closed:
        raise DecodeError(f"{name} of a packet is none of {sorted(closed)}")
    return value
