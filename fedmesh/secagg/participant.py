"""The device's side of secure aggregation: a state machine that takes bytes and gives bytes (Bonawitz et al. 2017).

Guaranteed, whatever the aggregator and up to C other devices do: nothing of the input leaves but masked; of every peer
at most one of its two secrets is revealed; a set of survivors is signed once, and revealed for only when `threshold`
devices have signed the same; secrets are dropped as soon as no later step needs them. A message that is refused changes
nothing. With a `store_path` this holds across restarts and ``kill -9`` as well.

A successor of the aggregator, where the policy names any, can ask for one thing only: the shares, by the signatures on
the set that this device signed. It gets the very message that the aggregator gets, or got: what is revealed depends on
the signed set alone, so whoever asks, first, last or at the same time, learns the same.

Not guaranteed: that memory is overwritten (Python does not say when it reuses it), nor constant time.
"""

import hashlib
import secrets
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg import pairwise, shares
from fedmesh.secagg.agreement import KeyPair
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Identity, Roster
from fedmesh.secagg.inputs import check_input, input_hashes
from fedmesh.secagg.masks import add_masks
from fedmesh.secagg.messages import (
    Envelope,
    Kind,
    bytes_map,
    masked_body,
    names,
    open_envelope,
    sign_envelope,
    unpack_body,
    verify_body,
)
from fedmesh.secagg.policy import Policy
from fedmesh.secagg.session import binding, commitment, input_context, survivors_digest
from fedmesh.secagg.state import State, open_state, seal_state
from fedmesh.secagg.store import Store
from fedmesh.secagg.survivors import check_members, check_quorum, check_survivors

__all__ = ["Participant"]

_EXPECTED = {
    "advertised": Kind.KEYS,
    "shared": Kind.DELIVERIES,
    "masked": Kind.SURVIVORS,
    "signed": Kind.QUORUM,
    "revealed": Kind.QUORUM,
}
_LARGEST_REPEATED = 1 << 26  # bytes of the last answer that are kept for a repeated message


class Participant:
    """One device, one session at a time.

    Args:
        name: the device's, on the roster.
        identity: its key pair.
        roster: the identity keys that this device has pinned; none is ever taken from a message.
        policy: its local floor.
        store_path: where it remembers what it has signed; in memory, as long as this object lives, if None.

    Raises:
        SecAggError: the store is damaged.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: Roster,
        policy: Policy | None = None,
        store_path: str | Path | None = None,
    ) -> None:
        self.name = name
        self._identity = identity
        self._roster = roster
        self._policy = Policy() if policy is None else policy
        self._store_path = store_path
        self._opened_store: Store | None = None
        self._state: State | None = None
        self._last: tuple[bytes, bytes | None] = (b"", None)

    def __repr__(self) -> str:
        return f"Participant({self.name!r}, step={self.step!r})"

    def __reduce__(self) -> str:
        raise TypeError("a participant is not pickled: seal() is the way to keep it between steps")

    @property
    def step(self) -> str:
        """What it did last: ``idle``, or one of `state.STEPS`."""
        return "idle" if self._state is None else self._state.step

    @property
    def finished(self) -> bool:
        """Whether it holds no session: none was begun, or the last step is over and its secrets are gone."""
        return self._state is None or self._state.step == "revealed"

    @property
    def signed(self) -> tuple[bytes, bytes] | None:
        """The digest of the set of survivors that it signed and its signature, as long as it can reveal for it; public.

        Where somebody may succeed the aggregator, devices tell it to all: `Handover.signers` wants these signatures.
        """
        state = self._state
        if state is None or state.step not in {"signed", "revealed"}:
            return None
        statement = survivors_digest(state.context, state.survivors)
        return statement, self._identity.sign(statement)

    def close(self) -> None:
        """Forgets the session and lets go of the store; idempotent."""
        self._forget()
        if self._opened_store is not None:
            self._opened_store.close()
            self._opened_store = None

    def begin(self, header: SessionHeader, vector: NDArray[np.int64], weight: int = 1) -> bytes:
        """The advertise message of a new session; a session that was under way is forgotten.

        Args:
            header: what the aggregator announces.
            vector: the device's input, signed integers [header.length].
            weight: its integer weight, 1 to header.weight_cap: the sum is over weight * vector.

        Raises:
            SecAggError: the policy, the roster or the round's monotonicity refuses the header; the roster has another
                identity for this device; the input does not fit the header, or could overflow its ring.
        """
        self._admit(header)
        if header.model_hash is None:
            raise SecAggError("the header leaves its model open: join() it, and supply() the input", code="input")
        checked = check_input(header, vector, weight, modular=self._policy.modular)
        message, state = self._enter(header), self._session()
        state.input = checked
        state.context = input_context(state.session, header.model_hash, header.scale_hash or b"")
        return message

    def join(self, header: SessionHeader) -> bytes:
        """As `begin`, for an input that `supply` brings later: keys can be exchanged while the device trains."""
        self._admit(header)
        return self._enter(header)

    def _admit(self, header: SessionHeader) -> None:
        """Whether this device takes part: nothing is written and no key is made before."""
        if self._roster.key(self.name) != self._identity.public:
            raise SecAggError(
                f"the roster has another identity key for {self.name!r} than this device's", code="identity"
            )
        self._policy.check(header, self._roster, self.name)

    def _enter(self, header: SessionHeader) -> bytes:
        self._store.begin(header.task, header.round, header.attempt, header.sid)
        cipher, mask = KeyPair.generate(), KeyPair.generate()
        session = binding(header, self._roster)
        self._forget()
        self._state = State(header, session, cipher=cipher.private_bytes(), mask=mask.private_bytes())
        return self._signed(Kind.ADVERTISE, cipher.public + mask.public)

    def supply(
        self,
        vector: NDArray[np.int64],
        weight: int = 1,
        *,
        model_hash: bytes | None = None,
        scale_hash: bytes | None = None,
    ) -> bytes | None:
        """Brings the input of a session that was joined; returns the masked message, or None if shares are to come yet.

        Args:
            vector, weight: as for `begin`.
            model_hash, scale_hash: what the input belongs to; needed when the header leaves them open, and otherwise
                compared with it.

        Raises:
            SecAggError: there is no session that waits for an input, or it does not fit.
        """
        state = self._session()
        if state.input is not None or state.step not in {"advertised", "shared", "delivered"}:
            raise SecAggError("this session has its input already: one leaves a device in a round", code="turn")
        checked = check_input(state.header, vector, weight, modular=self._policy.modular)
        hashes = input_hashes(state.header, model_hash, scale_hash)
        self._policy.check_input(*hashes)
        context = input_context(state.session, *hashes)
        if state.step != "delivered":
            state.input, state.context = checked, context
            return None
        reply = self._masked(state, state.sharers, checked, context)
        self._last = (self._last[0], reply)
        return reply

    def handle(self, message: bytes) -> bytes | None:
        """What to answer to the aggregator's `message`; None while the input is not there yet.

        A message that came before gets the same answer again, but for the last one: shares are revealed once. Where the
        policy names successors, these and the aggregator get them again, in the very message that left first.

        Raises:
            SecAggError: the message is refused; nothing has changed, and nothing is to be sent.
        """
        state = self._session()
        if not isinstance(message, bytes):
            raise SecAggError(f"a message is bytes, not {type(message).__name__}", code="malformed")
        digest = hashlib.sha256(message).digest()
        if digest == self._last[0]:
            return self._last[1]
        envelope = self._opened(state, message)
        reply: bytes | None
        match envelope.kind:
            case Kind.KEYS:
                reply = self._shares(state, envelope.body)
            case Kind.DELIVERIES:
                reply = self._delivered(state, envelope.body)
            case Kind.SURVIVORS:
                reply = self._signature(state, envelope.body)
            case _:
                return self._reveal(state, envelope.body)
        state.aggregator = envelope.sender
        self._last = (digest, reply) if reply is None or len(reply) <= _LARGEST_REPEATED else (b"", None)
        return reply

    def seal(self) -> bytes:
        """The state between two steps, readable for this device alone; empty when there is none to keep."""
        return b"" if self._state is None else seal_state(self._state, self.name, self._identity)

    @classmethod
    def unseal(  # noqa: PLR0917  # as the constructor takes them
        cls,
        name: str,
        identity: Identity,
        roster: Roster,
        policy: Policy | None,
        sealed: bytes,
        store_path: str | Path | None = None,
    ) -> Self:
        """The participant whose state `seal` gave; an idle one for empty bytes.

        Without a `store_path` it remembers what the state tells: nothing then stops who puts an older state back.

        Raises:
            SecAggError: the bytes were not sealed by this device.
        """
        state = open_state(sealed, name, identity) if sealed else None
        participant = cls(name, identity, roster, policy, store_path)
        if state is not None and store_path is None:
            participant._remember(state)
        participant._state = state
        return participant

    def _remember(self, state: State) -> None:
        """Fills a store in memory, which knows nothing after a restart, with what the state itself tells."""
        header = state.header
        session = (header.task, header.round, header.attempt)
        self._store.begin(*session, header.sid)
        if state.step in {"masked", "signed", "revealed"}:
            self._store.mask_once(*session)
        if state.step in {"signed", "revealed"}:
            statement = survivors_digest(state.context, state.survivors)
            self._store.sign_once(*session, statement, lambda: self._identity.sign(statement))
        if state.step == "revealed":
            self._store.release_once(*session)

    @property
    def _store(self) -> Store:
        """Opened when it is needed: between two messages a device is often a new process, and one step needs none."""
        if self._opened_store is None:
            self._opened_store = Store(self._store_path)
            weakref.finalize(self, self._opened_store.close)
        return self._opened_store

    def _session(self) -> State:
        if self._state is None:
            raise SecAggError(f"{self.name!r} has no session under way: it is over, or was not begun", code="turn")
        return self._state

    def _forget(self) -> None:
        self._state = None
        self._last = (b"", None)

    def _opened(self, state: State, message: bytes) -> Envelope:
        if state.step not in _EXPECTED:
            raise SecAggError("a message came while the device still makes its input", code="turn")
        envelope = open_envelope(message, state.header, state.header.sid, kinds=(_EXPECTED[state.step],))
        pinned = state.aggregator or self._policy.aggregator
        may_succeed = envelope.kind is Kind.QUORUM and envelope.sender in self._policy.successors
        if pinned and envelope.sender != pinned and not may_succeed:
            raise SecAggError(
                f"{envelope.sender!r:.80} sent a message where this session's aggregator, {pinned!r:.80}, should have",
                code="identity",
            )
        verify_body(envelope, state.session, self._roster)
        return envelope

    def _signed(self, kind: Kind, body: object) -> bytes:
        state = self._session()
        return sign_envelope(
            kind, body, session=state.session, sid=state.header.sid, sender=self.name, identity=self._identity
        )

    def _shares(self, state: State, body: bytes) -> bytes:
        """R1: checks everybody's keys, and sends each peer its shares of this device's two secrets."""
        cipher, mask = KeyPair.from_private(state.cipher), KeyPair.from_private(state.mask)
        adverts = pairwise.checked_adverts(
            bytes_map(unpack_body(body), length=pairwise.ADVERT_BYTES),
            state.header,
            state.session,
            self._roster,
            own=(self.name, cipher.public + mask.public),
        )
        peers = [name for name in adverts if name != self.name]
        channels = {name: cipher.shared(pairwise.cipher_key(adverts[name])) for name in peers}
        seed = secrets.token_bytes(32)
        pairs = shares.split_pairs(seed, state.mask, threshold=state.header.threshold, cohort=state.header.cohort)
        sealed = {name: shares.seal_pair(pairs[name], channels[name], state.session, self.name, name) for name in peers}
        reply = self._signed(Kind.SHARES, {"commitment": commitment(state.session, self.name, seed), "sealed": sealed})
        state.adverts = {name: adverts[name] for name in peers}
        state.channels, state.seed, state.held, state.cipher = channels, seed, {self.name: pairs[self.name]}, b""
        state.step = "shared"
        return reply

    def _delivered(self, state: State, body: bytes) -> bytes | None:
        """Opens the shares that the others have sent here; then masks the input, if it is there."""
        sealed = bytes_map(unpack_body(body), length=shares.SEALED_BYTES)
        if self.name in sealed:
            raise SecAggError("shares came that are said to be from this device itself", code="shares")
        sharers = check_members((*sealed, self.name), state.header, among={*state.adverts, self.name})
        opened = {
            name: shares.open_pair(sealed[name], state.channels[name], state.session, name, self.name)
            for name in sealed
        }
        reply = None if state.input is None else self._masked(state, sharers, state.input, state.context)
        state.held, state.sharers, state.channels = state.held | opened, sharers, {}
        if reply is None:
            state.step = "delivered"
        return reply

    def _masked(
        self, state: State, sharers: tuple[str, ...], values: NDArray[np.unsignedinteger[Any]], context: bytes
    ) -> bytes:
        """R2: the input under this device's own mask and one shared with each peer. One leaves a device."""
        vector = values.copy()
        mask = KeyPair.from_private(state.mask)
        plus, minus = pairwise.mask_seeds(
            self.name, mask, state.adverts, cohort=state.header.cohort, sharers=sharers, context=context
        )
        add_masks(vector, [pairwise.own_seed(state.seed, context), *plus], minus)
        reply = self._signed(Kind.MASKED, masked_body(state.header.ring, vector))
        # Last of what can fail, and before the message can leave: refused, it changes nothing.
        self._store.mask_once(state.header.task, state.header.round, state.header.attempt)
        state.input, state.seed, state.mask, state.adverts = None, b"", b"", {}
        state.context, state.step = context, "masked"
        return reply

    def _signature(self, state: State, body: bytes) -> bytes:
        """R3: signs who survived, once."""
        survivors = check_survivors(names(body), state.header, sharers=state.sharers, name=self.name)
        header, statement = state.header, survivors_digest(state.context, survivors)
        signature = self._store.sign_once(
            header.task, header.round, header.attempt, statement, lambda: self._identity.sign(statement)
        )
        reply = self._signed(Kind.SIGNATURE, {"signature": signature})
        state.survivors, state.step = survivors, "signed"
        return reply

    def _reveal(self, state: State, body: bytes) -> bytes:
        """R4: once enough devices have signed the same set, one share of each peer: then the session is over."""
        signatures = bytes_map(unpack_body(body), length=64)
        check_quorum(signatures, state.survivors, state.context, self._roster, threshold=state.header.threshold)
        if state.step == "revealed":
            return state.reply
        dropped = [name for name in state.sharers if name not in state.survivors]
        self._store.release_once(state.header.task, state.header.round, state.header.attempt)
        revealed = {
            "seeds": {name: shares.seed_share(state.held[name]) for name in state.survivors},
            "masks": {name: shares.mask_share(state.held[name]) for name in dropped},
        }
        reply = self._signed(Kind.REVEAL, revealed)
        self._forget()
        if self._policy.successors:
            self._state = State(
                state.header, state.session, "revealed", state.aggregator,
                survivors=state.survivors, context=state.context, reply=reply,
            )  # fmt: skip
        return reply
