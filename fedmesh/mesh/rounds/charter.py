"""The charter of a run: what is learned, by whom, and by which rules; signed once, before the first round.

::

    signature, 64 bytes | body: CBOR ["fedmesh-charter/1", mesh, task, run, scenario, members, rounds, quorum,
                                      fewest, attempts, model, state, [train_ms, step_ms, vote_ms], signer]

One that begins with "fedmesh-gossip-charter/1" has the same fields, and is of a run without rounds: gossip averaging,
which is `fedmesh.mesh.gossip`'s.

Everything that the rounds decide by counting is counted among the charter's members, and everything that is compared
with a clock is compared with its schedule. A charter gives its signer no part in the rounds, and a signature alone no
right to sign one: that comes from the signer's certificate, and whoever reads a charter asks for it.

Who is revoked, or enrolled anew, after it was signed is counted out: the quorum stays that of all members, and comes
from those that are left. Somebody who did not see the roster of then cannot tell such a member from one that the signer
has made up, so as to vote twice. What tells is that others took part when all keys were on the roster: of more members
than can be in league, one is honest, and has looked.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fedmesh.errors import ChainError, ConfigError, DecodeError
from fedmesh.identity.names import is_id
from fedmesh.mesh.rounds.keys import domain
from fedmesh.mesh.rounds.quorum import MAX_MEMBERS, MIN_MEMBERS, colluders_for, quorum_for
from fedmesh.points import is_sound
from fedmesh.secagg.identity import Identity, verify
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_CHARTER_BYTES",
    "Charter",
    "Schedule",
    "counted_out",
    "open_charter",
    "read_charter",
    "sign_charter",
]

MAX_CHARTER_BYTES = 1 << 15
MAX_ROUNDS = 1 << 20
MAX_ATTEMPTS = 64
_MAX_TASK = 200
_MAX_MS = 7 * 86_400_000
_FORMATS: dict[str, "Kind"] = {"fedmesh-charter/1": "rounds", "fedmesh-gossip-charter/1": "gossip"}
_SIGNATURE_BYTES = 64

Kind = Literal["rounds", "gossip"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds on each member's own clock, which only has to go forward.

    Attributes:
        train_s: for training, up to the masked input. step_s: for each other step of secure aggregation, and for
            members to report before an attempt begins. vote_s: for each of the three steps of a vote.
    """

    train_s: float
    step_s: float
    vote_s: float

    @property
    def attempt_s(self) -> float:
        """How long a first attempt may take from beginning to end; later ones get longer, see `window_s`."""
        return self.train_s + 7 * self.step_s + 3 * self.vote_s

    def window_s(self, attempt: int) -> float:
        """How long members wait for `attempt`: up to eight times as long, for a mesh slower than its schedule."""
        return self.attempt_s * min(1 + attempt / 2, 8)


@dataclass(frozen=True, slots=True)
class Charter:
    """One run.

    Attributes:
        mesh: whose members these are; task: what is learned; run: 16 random bytes; scenario: SHA-256 of the scenario.
        members: id -> Ed25519 key of everybody who trains or votes, 4 to 128.
        rounds: how many there are, from 1.
        quorum: members that stand behind a result, at least `quorum_for`.
        fewest: inputs in a sum, at least.
        attempts: so many attempts of a round may train; each is charged to every device that trains in it.
        model, state: SHA-256 of the model and of the strategy's state that round 1 begins with.
        schedule: how long things may take.
        signer: who signed it.
        raw: signature and body, as they travel.
        kind: what it is a run of. Of gossip averaging, `rounds` are its steps, `fewest` is the smallest group, `state`
            is `model` again, and quorum and attempts mean nothing.
    """

    mesh: str
    task: str
    run: bytes
    scenario: bytes
    members: Mapping[str, bytes]
    rounds: int
    quorum: int
    fewest: int
    attempts: int
    model: bytes
    state: bytes
    schedule: Schedule
    signer: str
    raw: bytes = b""
    kind: Kind = "rounds"

    @property
    def names(self) -> tuple[str, ...]:
        """The members, sorted."""
        return tuple(sorted(self.members))

    @property
    def hash(self) -> bytes:
        """SHA-256 of the body, 32 bytes: what every message and every result of the run names."""
        return _digest(self.raw)


@lru_cache(maxsize=64)
def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(domain("charter", raw[_SIGNATURE_BYTES:])).digest()


def sign_charter(charter: Charter, identity: Identity) -> Charter:
    """The charter with its signer's signature. Raises: ConfigError: it says what no charter can say."""
    milliseconds = [round(1000 * seconds) for seconds in _times(charter.schedule)]
    members = [[name, charter.members[name]] for name in charter.names]
    form = next(form for form, kind in _FORMATS.items() if kind == charter.kind)
    body = dumps([
        form, charter.mesh, charter.task, charter.run, charter.scenario, members, charter.rounds, charter.quorum,
        charter.fewest, charter.attempts, charter.model, charter.state, milliseconds, charter.signer,
    ])  # fmt: skip
    try:
        return read_charter(identity.sign(domain("charter", body)) + body)
    except DecodeError as error:
        raise ConfigError(f"this charter cannot be signed: {error}") from error


def open_charter(
    raw: bytes,
    *,
    mesh: str,
    key_of: Callable[[str], bytes | None],
    may_charter: Callable[[str], bool],
    vouchers: Collection[str] = (),
) -> Charter:
    """The charter in `raw`, if this member may believe it.

    Args:
        mesh: this member's.
        key_of: id -> Ed25519 key on the newest roster; None: no such member, or not any more.
        may_charter: whether the certificate, or the roster, gives the signer the right to start a run.
        vouchers: who says that it has taken it over, by their links.

    Raises:
        DecodeError: it is no charter.
        ChainError: ``charter``: it is another mesh's, its signer may not sign it or did not, or it has another key for
            a member than the roster: and too few members are left for a quorum, or too few of these have it.
    """
    charter = read_charter(raw)
    signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    key = key_of(charter.signer)
    if charter.mesh != mesh:
        raise ChainError(f"a charter of the mesh {charter.mesh!r} came; this is {mesh!r}", code="charter")
    if key is None or not may_charter(charter.signer):
        raise ChainError(f"a charter came that {charter.signer!r} has no right to sign", code="charter")
    if not verify(key, signature, domain("charter", body)):
        raise ChainError(f"a charter came that {charter.signer!r} did not sign", code="charter")
    _check_left(charter, counted_out(charter, key_of), vouchers)
    return charter


def counted_out(charter: Charter, key_of: Callable[[str], bytes | None]) -> frozenset[str]:
    """Members that have another key on the roster than in the charter, or none: they neither vote nor coordinate."""
    return frozenset(name for name, key in charter.members.items() if key_of(name) != key)


def _check_left(charter: Charter, out: frozenset[str], vouchers: Collection[str]) -> None:
    """As many as a quorum leaves out may be counted out: no more than can be in league, were all of them liars."""
    left = charter.members.keys() - out
    if len(left) < charter.quorum:
        raise ChainError(
            f"{len(left)} of the {len(charter.members)} members of a charter have their keys on the roster, the quorum "
            f"is {charter.quorum}; not {', '.join(sorted(out))[:200]}: fetch the newest roster, or start the run anew "
            "without them",
            code="charter",
        )
    behind, wanted = left & set(vouchers), colluders_for(len(charter.members)) + 1
    if out and len(behind) < wanted:
        raise ChainError(
            f"a charter has other keys than the roster for {', '.join(sorted(out))[:200]}, and {len(behind)} of its "
            f"members say that they take part, {wanted} have to: wait for links with them, or fetch the newest roster",
            code="charter",
        )


def read_charter(raw: bytes) -> Charter:
    """The charter in `raw`; whether it was signed is not looked at. Raises: DecodeError: it is none."""
    if not _SIGNATURE_BYTES < len(raw) <= MAX_CHARTER_BYTES:
        raise DecodeError(f"a charter of {len(raw)} bytes, the limit is {MAX_CHARTER_BYTES}")
    content = loads(raw[_SIGNATURE_BYTES:], max_bytes=MAX_CHARTER_BYTES, max_depth=3, max_items=4 * MAX_MEMBERS + 32)
    match content:
        case [str(form), *_] if form not in _FORMATS:
            raise DecodeError(f"a charter of format {form[:40]!r} came; known are {', '.join(_FORMATS)}")
        case [
            str(form), str(mesh), str(task), bytes(run), bytes(scenario), list(members), int(rounds), int(quorum),
            int(fewest), int(attempts), bytes(model), bytes(state), list(times), str(signer),
        ]:  # fmt: skip
            charter = Charter(
                mesh, task, run, scenario, _members(members), rounds, quorum, fewest, attempts, model, state,
                _schedule(times), signer, raw, _FORMATS[form],
            )  # fmt: skip
        case _:
            raise DecodeError("a charter does not have a charter's fields")
    _check(charter)
    return charter


def _members(pairs: list[Any]) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for pair in pairs:
        match pair:
            case [str(name), bytes(key)] if is_id(name) and len(key) == 32 and is_sound(key):
                if members and name <= max(members):
                    raise DecodeError("a charter's members are not sorted, or one is there twice")
                members[name] = key
            case _:
                raise DecodeError("a charter's member is a name and a sound key of 32 bytes")
    if len(set(members.values())) != len(members):
        raise DecodeError("two members of a charter have the same key: one would vote twice")
    return members


def _schedule(times: list[Any]) -> Schedule:
    if len(times) != 3 or not all(type(time) is int and 0 < time <= _MAX_MS for time in times):
        raise DecodeError("a charter's schedule is three times of 1 ms to 7 days")
    return Schedule(*(time / 1000 for time in times))


def _check(charter: Charter) -> None:
    size = len(charter.members)
    if not MIN_MEMBERS <= size <= MAX_MEMBERS:
        raise DecodeError(f"a charter has {size} members; wanted {MIN_MEMBERS} to {MAX_MEMBERS}")
    if not quorum_for(size) <= charter.quorum <= size:
        raise DecodeError(
            f"a charter of {size} members has a quorum of {charter.quorum}; wanted {quorum_for(size)} to {size}, so "
            "that two quorums share somebody honest"
        )
    is_right = (
        is_id(charter.mesh)
        and is_id(charter.signer)
        and 0 < len(charter.task) <= _MAX_TASK
        and len(charter.run) == 16
        and all(len(digest) == 32 for digest in (charter.scenario, charter.model, charter.state))
        and all(type(count) is int for count in (charter.rounds, charter.quorum, charter.fewest, charter.attempts))
        and 1 <= charter.rounds <= MAX_ROUNDS
        and MIN_MEMBERS <= charter.fewest <= size
        and 1 <= charter.attempts <= MAX_ATTEMPTS
    )
    if not is_right:
        raise DecodeError(
            f"a charter says what no charter can: wanted names, a task of 1 to {_MAX_TASK} characters, digests of 32 "
            f"bytes, 1 to {MAX_ROUNDS} rounds, {MIN_MEMBERS} to {size} inputs and 1 to {MAX_ATTEMPTS} attempts"
        )


def _times(schedule: Schedule) -> tuple[float, float, float]:
    return schedule.train_s, schedule.step_s, schedule.vote_s
