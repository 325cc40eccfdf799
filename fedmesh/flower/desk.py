"""One device while it answers one message: its sessions come out of the Context, and go back sealed or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flwr.app import Context, RecordDict

from fedmesh.errors import SecAggError
from fedmesh.flower.secure import AHEAD, Order, attach_answer
from fedmesh.flower.sessions import Kept, keep, kept_in
from fedmesh.flower.terms import Terms
from fedmesh.secagg import Identity, Participant, Roster, SessionHeader

__all__ = ["Credential", "Credentials", "Desk"]


@dataclass(frozen=True, slots=True)
class Credential:
    """Who a device is.

    Attributes:
        name, identity: the device's; roster: that it was enrolled with.
        store_path: where it remembers what it has signed. Never None: a session lives through several processes.
    """

    name: str
    identity: Identity
    roster: Roster
    store_path: Path


class Credentials(Protocol):
    """Where a device's credential comes from; in a simulation one process plays many devices."""

    def __call__(self, context: Context) -> Credential:
        """The credential of the device whose Context this is. Raises: ConfigError when there is none."""
        ...


class Desk:
    """One device and one message of round `number`.

    Nothing changes before `save`: a message that is refused leaves the Context as it was.
    """

    def __init__(self, who: Credential, terms: Terms, context: Context, number: int) -> None:
        self._who = who
        self._terms = terms
        self._context = context
        self._number = number
        self._sessions = {of: kept for of, kept in kept_in(context).items() if of >= number}

    def answer(self, order: Order) -> bytes:
        """What the participant of this round's session says.

        Raises:
            SecAggError: there is no such session, or it or the message is refused.
        """
        if order.step == "advertise":
            return self._join(order.header, ahead=False)
        return self._handle(self._number, order.message)

    def prepare(self, order: Order | None, content: RecordDict) -> None:
        """Puts into `content` what the participant of the next round's session says; nothing when it does not join.

        This round does not depend on the next: why that is refused comes out when its session is set up by itself.
        """
        if order is None:
            return
        try:
            if order.step == "advertise":
                message = self._join(order.header, ahead=True)
            else:
                message = self._handle(self._following(), order.message)
        except SecAggError:
            return
        attach_answer(content, message, AHEAD)

    def train(self, order: Order, hashes: Mapping[str, bytes]) -> Participant:
        """The participant of this round's session, with all shares delivered; it waits for its input.

        Args:
            order: of the step ``train``.
            hashes: ``model_hash`` and ``scale_hash`` of what came.

        Raises:
            SecAggError: as `answer`; or the session is for another model or other scales.
        """
        kept = self._kept(self._number)
        header = SessionHeader.from_bytes(kept.header)
        for name, came in hashes.items():
            if getattr(header, name) not in {None, came}:
                raise SecAggError(
                    f"the session was set up for another {name} than what came: nothing is trained on it", code="policy"
                )
        participant = self._open(kept)
        if participant.handle(order.message) is not None:
            raise SecAggError("the train step brought the message of another step", code="turn")
        return participant

    def put_away(self, participant: Participant) -> None:
        """Keeps this round's session as it is now, or forgets it when it is over."""
        self._put_away(self._number, self._kept(self._number).header, participant)

    def save(self) -> None:
        """Makes what has changed the Context's."""
        keep(self._context, self._sessions)

    def _join(self, data: bytes, *, ahead: bool) -> bytes:
        header = SessionHeader.from_bytes(data)
        if header.round < self._number or ahead != (header.round > self._number):
            raise SecAggError(
                f"a session of round {header.round} was announced in round {self._number}", code="session"
            )
        self._terms.check(header)
        who = self._who
        participant = Participant(who.name, who.identity, who.roster, self._terms.policy, who.store_path)
        message = participant.join(header)
        for number in [number for number in self._sessions if (number > self._number) == ahead]:
            del self._sessions[number]
        self._put_away(header.round, data, participant)
        return message

    def _handle(self, number: int, data: bytes) -> bytes:
        kept = self._kept(number)
        participant = self._open(kept)
        message = participant.handle(data)
        if message is None:
            raise SecAggError("a message of the train step came outside it", code="turn")
        self._put_away(number, kept.header, participant)
        return message

    def _following(self) -> int:
        return next((number for number in self._sessions if number > self._number), self._number + 1)

    def _kept(self, number: int) -> Kept:
        if number not in self._sessions:
            raise SecAggError(f"no session of round {number} is under way on this device", code="session")
        return self._sessions[number]

    def _open(self, kept: Kept) -> Participant:
        who = self._who
        policy = self._terms.policy
        return Participant.unseal(who.name, who.identity, who.roster, policy, kept.sealed, store_path=who.store_path)

    def _put_away(self, number: int, header: bytes, participant: Participant) -> None:
        sealed = participant.seal()
        participant.close()
        if sealed:
            self._sessions[number] = Kept(header, sealed)
        else:
            self._sessions.pop(number, None)
