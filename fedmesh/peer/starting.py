"""Starting a run: who asks puts what it begins with into the node's folder, and the node signs a charter for it.

Both are the same user on the same machine. What is asked for is checked here as if it came from a stranger all the
same: it is signed under the node's name.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError
from fedmesh.identity import Membership
from fedmesh.mesh.membership import Member, State
from fedmesh.mesh.rounds import Charter, Schedule, quorum_for, sign_charter
from fedmesh.mesh.rounds.quorum import MAX_MEMBERS, MIN_MEMBERS
from fedmesh.peer.blobs import BlobStore
from fedmesh.peer.keys import RosterKeys
from fedmesh.peer.learning import Prepared
from fedmesh.peer.runs import BLOBS, RIGHT, Runs
from fedmesh.peer.status import ask
from fedmesh.secagg import Identity

if TYPE_CHECKING:
    from fedmesh.mesh.rounds.charter import Kind

__all__ = ["Starting", "check_start", "start"]

CHECK, START = "check-start", "start"


def check_start(folder: Path, members: Sequence[str] | None) -> dict[str, Any]:
    """Whether the node with this folder would start a run now: ``members`` are those that it would be with.

    Raises:
        ConfigError: no node runs there, or it would not; the message says why.
    """
    return ask(folder, do=CHECK, members=None if members is None else list(members))


def start(folder: Path, prepared: Prepared, *, members: Sequence[str] | None, again: bool) -> dict[str, Any]:
    """Has the node with this folder start a run: ``run``, ``task``, ``members``, ``quorum`` and ``rounds`` of it.

    Of gossip averaging ``kind`` and ``group`` as well, the smallest.

    Args:
        members: who takes part; None: all that are alive.
        again: also when one of this task is under way.

    Raises:
        ConfigError: as for `check_start`; or one of this task is under way.
    """
    store = BlobStore(folder / BLOBS)
    blobs = {"scenario": prepared.scenario, "model": prepared.model, "state": prepared.state}
    schedule = prepared.schedule
    return ask(
        folder,
        do=START,
        task=prepared.task,
        rounds=prepared.rounds,
        fewest=prepared.fewest,
        attempts=prepared.attempts,
        kind=prepared.kind,
        schedule=[schedule.train_s, schedule.step_s, schedule.vote_s],
        members=None if members is None else list(members),
        again=again,
        **{what: store.put(data).hex() for what, data in blobs.items()},
    )


class Starting:
    """The node's side.

    Args:
        keys: of the newest roster. members: who is known, and what each is held to be.
    """

    def __init__(
        self, membership: Membership, runs: Runs, *, keys: RosterKeys, members: Callable[[], Iterable[Member]]
    ) -> None:
        self._membership, self._runs, self._keys, self._members = membership, runs, keys, members
        self.handlers = {CHECK: self._checked, START: self._started}

    def _checked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"members": self._chosen(asked.get("members"))}

    def _started(self, asked: dict[str, Any]) -> dict[str, Any]:
        members = self._chosen(asked.get("members"))
        charter = self._charter(asked, members)
        under_way = [run for run in self._runs.all.values() if run.is_live and run.charter.task == charter.task]
        if under_way and asked.get("again") is not True:
            raise ConfigError(
                f"a run of {charter.task} is under way ({under_way[0].charter.run.hex()}, fedmesh mesh status): wait "
                "until it is over, or start another beside it with --again; devices spend their budget on both"
            )
        missing = [digest for digest in (charter.scenario, charter.model, charter.state) if digest not in self._blobs]
        if missing:
            raise ConfigError(f"what the run begins with is not in {BLOBS}: {missing[0].hex()}")
        self._runs.begin(charter)
        facts = {"run": charter.run.hex(), "task": charter.task, "members": members}
        more = {"kind": charter.kind, "group": charter.fewest} if charter.kind == "gossip" else {}
        return {**facts, "quorum": charter.quorum, "rounds": charter.rounds, **more}

    @property
    def _blobs(self) -> BlobStore:
        return self._runs.blobs

    def _chosen(self, named: object) -> list[str]:
        """Who takes part. Raises: ConfigError: no run can be started with them, or not by this member."""
        own = self._membership.name.id
        if not self._runs.may_start(own):
            raise ConfigError(
                f"{own} has no right to start runs: whoever has the authority gives it with fedmesh ca grant {own} "
                f"--{RIGHT}, and it counts here as soon as the new roster is"
            )
        if named is None:
            alive = {own, *(each.name for each in self._members() if each.state <= State.SUSPECT)}
            chosen = sorted(name for name in alive if self._keys(name) is not None)
        elif isinstance(named, list) and all(isinstance(name, str) for name in named):
            chosen = sorted(set(named))
        else:
            raise ConfigError("members are a list of names")
        strangers = [name for name in chosen if self._keys(name) is None]
        if strangers:
            raise ConfigError(f"not on the roster, or revoked: {', '.join(strangers)[:200]}")
        if not MIN_MEMBERS <= len(chosen) <= MAX_MEMBERS:
            who = "are here" if named is None else "are named"
            raise ConfigError(
                f"{len(chosen)} members {who} ({', '.join(chosen)[:200]}), a run has {MIN_MEMBERS} to {MAX_MEMBERS}: "
                "see fedmesh mesh status, and name them with --members"
            )
        return chosen

    def _charter(self, asked: dict[str, Any], members: list[str]) -> Charter:
        match asked:
            case {
                "task": str(task), "scenario": str(scenario), "model": str(model), "state": str(state),
                "rounds": int(rounds), "fewest": int(fewest), "attempts": int(attempts), "schedule": [*times],
            } if len(times) == 3 and all(type(time) in {int, float} and 0 < time < 1e7 for time in times):  # fmt: skip
                pass
            case _:
                raise ConfigError("what is asked for is no run")
        kind: Kind = "gossip" if asked.get("kind") == "gossip" else "rounds"
        own = self._membership.name
        keys = {name: key for name in members if (key := self._keys(name)) is not None}
        if fewest > len(members):
            raise ConfigError(
                f"a sum is to have {fewest} inputs at least, and {len(members)} members are in the run: lower it in "
                "the scenario, or name more with --members"
            )
        plain = Charter(
            own.mesh, task, secrets.token_bytes(16), _digest(scenario), keys, rounds, quorum_for(len(keys)),
            fewest, attempts, _digest(model), _digest(state), Schedule(*times), own.id, kind=kind,
        )  # fmt: skip
        return sign_charter(plain, Identity(self._membership.signing_key()))


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError("a digest is 64 hexadecimal digits")
    return digest
