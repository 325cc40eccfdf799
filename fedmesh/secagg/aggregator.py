"""The aggregator's side of secure aggregation: a state machine that learns one sum, and nothing about its parts.

Guaranteed, with honest devices: the bitwise right sum over the survivors, or a typed abort, whoever is lost at whatever
step; a message that is refused changes nothing; masked inputs are added as they come, so memory is one vector and the
shares, which are O(n^2). Nobody has to trust it: everything that a device accepts from it, the device checks.

Once the masked inputs are in, another can go on in its place, with what `handover` gives: `Aggregator.resume`.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg import shares as sharing
from fedmesh.secagg import unmasking
from fedmesh.secagg.handover import Handover, sign_handover
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Identity, Roster, verify
from fedmesh.secagg.messages import (
    Envelope,
    Kind,
    byte_string,
    bytes_map,
    open_envelope,
    ring_vector,
    sign_envelope,
    unpack_body,
    verify_body,
)
from fedmesh.secagg.pairwise import KEY_BYTES, require_distinct, require_sound
from fedmesh.secagg.result import SumResult, sign_result
from fedmesh.secagg.session import binding, input_context, survivors_digest
from fedmesh.secagg.survivors import in_order, require_enough

__all__ = ["STEPS", "Aggregator"]

STEPS = ("advertise", "share", "mask", "sign", "unmask")
_KINDS = (Kind.ADVERTISE, Kind.SHARES, Kind.MASKED, Kind.SIGNATURE, Kind.REVEAL)

Outgoing = list[tuple[str, bytes]]


class Aggregator:
    """One session's aggregator; it begins by waiting for the cohort's advertise messages.

    Args:
        header: what was announced to the cohort.
        identity: the aggregator's, under any name on the roster.
        roster: the identity keys of cohort and aggregator.
        threads: that take masks off a long vector; each but one takes memory for another vector.

    Raises:
        SecAggError: the header is none, somebody is not on the roster, or a sum of its length has no room in memory.
    """

    def __init__(self, header: SessionHeader, identity: Identity, roster: Roster, *, threads: int = 1) -> None:
        header.check()
        name = roster.name_of(identity.public)
        if name is None:
            raise SecAggError("the aggregator's identity is not on the roster: enrol it first", code="identity")
        self.header = header
        self.name = name
        self.result: SumResult | None = None
        """The sum, once the last step is over."""
        self.lost: dict[str, str] = {}
        """Device -> the step in which it was not heard; in a session that was resumed, that step or one before."""
        self._identity, self._roster = identity, roster
        self._sid, self._session = header.sid, binding(header, roster)
        self._step = 0
        self._threads = threads
        self._aborted = False
        self._expected = header.cohort
        self._heard: dict[str, bytes] = {}  # signature of what was taken in this step
        self._adverts: dict[str, bytes] = {}
        self._shares: dict[str, Mapping[str, bytes]] = {}
        self._commitments: dict[str, bytes] = {}
        self._sharers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()
        self._signatures: dict[str, bytes] = {}
        self._revealed: dict[str, tuple[Mapping[str, bytes], Mapping[str, bytes]]] = {}
        self._total = _zeros(header)
        self._handover = b""
        self._context = b""
        if header.model_hash is not None and header.scale_hash is not None:
            self._context = input_context(self._session, header.model_hash, header.scale_hash)

    @classmethod
    def resume(
        cls,
        handover: Handover,
        identity: Identity,
        roster: Roster,
        *,
        of: str,
        signatures: Mapping[str, bytes],
        threads: int = 1,
    ) -> Self:
        """Goes on with the session of another, which may be dead, slow or lying; `advance` then asks for the shares.

        The devices that have signed the survivors are asked; whoever has revealed before sends the same again.

        Args:
            handover: what the other handed over.
            identity, roster, threads: as for a session of its own; the result is signed with this identity.
            of: the other's name, as *this* party knows it (its own device took part): a handover is good from whoever
                led the session, and from nobody else.
            signatures: name -> what devices are said to have signed; those that are not good for these survivors are
                left out.

        Raises:
            SecAggError: ``identity``: somebody else signed the handover. ``threshold``: too few have signed the set.
        """
        if handover.aggregator != of:
            raise SecAggError(
                f"the handover of a session of {of!r:.80} is signed by {handover.aggregator!r:.80}", code="identity"
            )
        signers = handover.signers(signatures, roster)
        if len(signers) < handover.header.threshold:
            raise SecAggError(
                f"{len(signers)} devices have signed for the survivors that were handed over; going on takes "
                f"{handover.header.threshold}",
                code="threshold",
            )
        resumed = cls(handover.header, identity, roster, threads=threads)
        resumed._take_over(handover, signers)
        return resumed

    def _take_over(self, handover: Handover, signers: Mapping[str, bytes]) -> None:
        self._adverts, self._commitments = dict(handover.keys), dict(handover.commitments)
        self._sharers, self._survivors = handover.sharers, handover.survivors
        self._total, self._context, self._handover = handover.total.copy(), handover.context, handover.raw
        self._signatures, self._heard = dict(signers), dict.fromkeys(signers, b"")
        self._expected, self._step = handover.survivors, STEPS.index("sign")
        self.lost = {name: "share" for name in self.header.cohort if name not in self._sharers}
        self.lost |= {name: "mask" for name in self._sharers if name not in self._survivors}

    def __repr__(self) -> str:
        return f"Aggregator(round={self.header.round}, attempt={self.header.attempt}, step={self.step!r})"

    @property
    def step(self) -> str:
        """The step whose messages are awaited, one of `STEPS`; ``done`` or ``aborted`` afterwards."""
        if self._aborted:
            return "aborted"
        return STEPS[self._step] if self._step < len(STEPS) else "done"

    @property
    def awaiting(self) -> frozenset[str]:
        """Devices that have not been heard in this step."""
        if self.step not in STEPS:
            return frozenset()
        return frozenset(self._expected) - self._heard.keys()

    @property
    def survivors(self) -> tuple[str, ...]:
        """Devices whose inputs are in the sum; empty before the masked inputs are in."""
        return self._survivors

    def bind(self, model_hash: bytes, scale_hash: bytes) -> None:
        """Says what the inputs belong to, when the header leaves that open; before the first masked input.

        Raises:
            SecAggError: it is settled already.
        """
        if self._context:
            raise SecAggError("the session's model is settled already", code="turn")
        self._context = input_context(self._session, model_hash, scale_hash)

    def handover(self) -> bytes:
        """What a successor needs, from when the masked inputs are in until the sum is there; the same bytes every time.

        As long as a masked input, and about 300 bytes for each device. It is public: see `fedmesh.secagg.handover`.

        Raises:
            SecAggError: ``turn``: the inputs are not in yet, or the session is over.
        """
        if self.step not in {"sign", "unmask"}:
            raise SecAggError(f"a session in the step {self.step!r} has nothing to hand over", code="turn")
        if not self._handover:
            self._handover = sign_handover(
                self.header,
                context=self._context,
                keys={name: self._adverts[name] for name in self._sharers},
                commitments={name: self._commitments[name] for name in self._survivors},
                total=self._total,
                aggregator=self.name,
                identity=self._identity,
                roster=self._roster,
            )
        return self._handover

    def handle(self, sender: str, message: bytes) -> Outgoing:
        """Takes a device's message; the next step's messages when it was the last one awaited.

        Late and repeated messages are dropped: an empty list.

        Raises:
            SecAggError: the message is refused, and nothing has changed: the caller drops its sender, and closes the
                step by `advance`. Or the round is given up (`step` is then ``aborted``).
        """
        if self.step not in STEPS:
            return []
        envelope = open_envelope(message, self.header, self._sid, kinds=_KINDS[: self._step + 1])
        if envelope.sender != sender:
            raise SecAggError(f"a message of {envelope.sender!r:.80} came from {sender!r:.80}", code="identity")
        if envelope.kind is not _KINDS[self._step]:
            return []  # of a step that is over
        if self._heard.get(sender) == envelope.signature:
            return []  # a copy of what was verified
        if sender not in self._expected or sender in self._heard:
            raise SecAggError(
                f"{sender!r:.80} sent a second message, or one in a step that it is not in", code="replay"
            )
        verify_body(envelope, self._session, self._roster)
        self._take(sender, envelope)
        self._heard[sender] = envelope.signature
        return self._close() if not self.awaiting else []

    def advance(self) -> Outgoing:
        """Closes the step without those that were not heard; the next step's messages.

        Raises:
            SecAggError: ``threshold``: too few are left; the session is over, and nothing was revealed.
        """
        if self.step not in STEPS:
            raise SecAggError(f"a session that is {self.step} has no step to close", code="turn")
        return self._close()

    def _take(self, sender: str, envelope: Envelope) -> None:
        match envelope.kind:
            case Kind.ADVERTISE:
                self._take_keys(sender, envelope)
            case Kind.SHARES:
                self._take_shares(sender, envelope.body)
            case Kind.MASKED:
                self._take_masked(envelope.body)
            case Kind.SIGNATURE:
                self._take_signature(sender, envelope.body)
            case _:
                self._take_reveal(sender, envelope.body)

    def _close(self) -> Outgoing:
        """Enters the next step with those that were heard."""
        heard = in_order(self._heard, self.header)
        try:
            self._require(len(heard))
            self.lost.update({name: self.step for name in self._expected if name not in self._heard})
            outgoing = self._next(heard)
        except SecAggError:
            self._aborted = True
            self._drop()
            raise
        self._expected, self._heard = heard, {}
        self._step += 1
        return outgoing

    def _require(self, heard: int) -> None:
        """Signatures and reveals need the threshold; what goes before needs enough inputs for a sum as well."""
        if self.step in {"sign", "unmask"}:
            if heard < self.header.threshold:
                raise SecAggError(
                    f"{heard} of {len(self.header.cohort)} devices are left at the step {self.step!r}; "
                    f"{self.header.threshold} are needed to unmask: the round is given up",
                    code="threshold",
                )
            return
        require_enough(heard, self.header, self.step)

    def _next(self, heard: tuple[str, ...]) -> Outgoing:
        match self.step:
            case "advertise":
                body: dict[str, Any] = {name: self._adverts[name] for name in heard}
                message = self._signed(Kind.KEYS, body)
                return [(name, message) for name in heard]
            case "share":
                self._sharers = heard
                return self._deliveries(heard)
            case "mask":
                self._survivors = heard
                message = self._signed(Kind.SURVIVORS, list(heard))
                return [(name, message) for name in heard]
            case "sign":
                enough = heard[: self.header.threshold]
                message = self._signed(Kind.QUORUM, {name: self._signatures[name] for name in enough})
                return [(name, message) for name in heard]
            case _:
                self._finish()
                return []

    def _signed(self, kind: Kind, body: object) -> bytes:
        return sign_envelope(
            kind, body, session=self._session, sid=self._sid, sender=self.name, identity=self._identity
        )

    def _take_keys(self, sender: str, envelope: Envelope) -> None:
        """R0. Keys that the devices would refuse are refused here: one device does not end the round for all."""
        keys = byte_string(envelope.body, length=2 * KEY_BYTES)
        require_sound(keys)
        require_distinct({**self._adverts, sender: keys + envelope.signature})
        self._adverts[sender] = keys + envelope.signature

    def _take_shares(self, sender: str, body: bytes) -> None:
        plain = unpack_body(body, keys=frozenset({"commitment", "sealed"}))
        sealed = bytes_map(plain["sealed"], length=sharing.SEALED_BYTES)
        if sealed.keys() != set(self._expected) - {sender}:
            raise SecAggError(f"{sender!r} did not send shares to exactly the others in the step", code="shares")
        if not isinstance(plain["commitment"], bytes) or len(plain["commitment"]) != 32:
            raise SecAggError(f"{sender!r} sent no commitment to its seed")
        self._shares[sender], self._commitments[sender] = sealed, plain["commitment"]

    def _deliveries(self, sharers: tuple[str, ...]) -> Outgoing:
        outgoing = []
        for name in sharers:
            sealed = {sender: self._shares[sender][name] for sender in sharers if sender != name}
            outgoing.append((name, self._signed(Kind.DELIVERIES, sealed)))
        self._shares = {}
        return outgoing

    def _take_masked(self, body: bytes) -> None:
        if not self._context:
            raise SecAggError("a masked input came before the session's model was bound", code="turn")
        ring, vector = ring_vector(body)
        if ring != self.header.ring or len(vector) != len(self._total):
            raise SecAggError(
                f"a masked input of {len(vector)} elements of {ring.bits} bits came; wanted {len(self._total)} of "
                f"{self.header.ring_bits}"
            )
        self._total += vector

    def _take_signature(self, sender: str, body: bytes) -> None:
        signature = bytes_map(unpack_body(body, keys=frozenset({"signature"})), length=64)["signature"]
        if not verify(self._roster.key(sender), signature, survivors_digest(self._context, self._survivors)):
            raise SecAggError(f"{sender!r} signed another set of survivors, or another model", code="consistency")
        self._signatures[sender] = signature

    def _take_reveal(self, sender: str, body: bytes) -> None:
        plain = unpack_body(body, keys=frozenset({"seeds", "masks"}))
        seeds = bytes_map(plain["seeds"], length=sharing.SHARE_BYTES)
        masks = bytes_map(plain["masks"], length=sharing.SHARE_BYTES)
        if seeds.keys() != set(self._survivors) or masks.keys() != set(self._sharers) - set(self._survivors):
            raise SecAggError(f"{sender!r} did not reveal exactly one share for each device", code="shares")
        self._revealed[sender] = (seeds, masks)

    def _finish(self) -> None:
        """Unmasks the sum and signs it."""
        header, places = self.header, {name: place for place, name in enumerate(self.header.cohort, start=1)}
        dropped = [name for name in self._sharers if name not in self._survivors]
        seeds = {v: {places[u]: both[0][v] for u, both in self._revealed.items()} for v in self._survivors}
        masks = {v: {places[u]: both[1][v] for u, both in self._revealed.items()} for v in dropped}
        total, threshold = self._total, header.threshold
        unmasking.remove_own(
            total,
            seeds,
            self._commitments,
            threshold=threshold,
            session=self._session,
            context=self._context,
            threads=self._threads,
        )
        unmasking.remove_dropped(
            total,
            masks,
            self._adverts,
            self._survivors,
            header.cohort,
            threshold=threshold,
            context=self._context,
            threads=self._threads,
        )
        lifted = header.ring.centre(total)
        weight = int(lifted[-1])
        if not len(self._survivors) <= weight <= len(self._survivors) * header.weight_cap:
            raise SecAggError(
                f"the weights of {len(self._survivors)} devices sum up to {weight}, with a cap of {header.weight_cap}: "
                "a device broke the rules, the sum is worth nothing",
                code="weight",
            )
        self.result = sign_result(
            lifted[:-1], weight, self._survivors, self._signatures,
            sid=self._sid, context=self._context, aggregator=self.name, identity=self._identity,
        )  # fmt: skip
        self._drop()

    def _drop(self) -> None:
        """Lets go of what is not needed any more: shares most of all."""
        self._shares, self._revealed, self._commitments = {}, {}, {}
        self._total, self._handover = np.zeros(0, self.header.ring.dtype), b""


def _zeros(header: SessionHeader) -> NDArray[np.unsignedinteger[Any]]:
    try:
        return np.zeros(header.length + 1, header.ring.dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        raise SecAggError(f"there is no room for a sum of {header.length} elements", code="policy") from error
