"""Two slots and what may become of them, as values: every step is a function from one state to the next. No I/O.

::

    empty ──filled──> pending ──try──> trying ──commit──> good
                         ^               │  │               │
                         └── interrupted ┘  └──── failed ───┴──> bad

A version on trial that a newer one supersedes is given up, and is neither good nor bad.
One slot at most is *active*: what runs. It is good, or trying where a version is on trial. A step that ends without a
word, by a crash, leaves ``trying``; the next boot counts it, and after `most` attempts the version has failed here.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.registry.fields import Fields
from fedmesh.wire import dumps

__all__ = ["EMPTY", "NAMES", "SLOT_STATES", "Failure", "Slot", "State"]

NAMES = ("a", "b")
SLOT_STATES = ("empty", "pending", "trying", "good", "bad")
_FORMAT = "fedmesh-slots/1"
_MOST_BYTES = 1 << 20
_MOST_FAILURES = 256


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: its state, and whose files are in it. `sha256` is the model's, `manifest` the manifest's."""

    state: str = "empty"
    version: int = 0
    sha256: bytes = b""
    manifest: bytes = b""
    attempts: int = 0


EMPTY = Slot()


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that failed here, by the SHA-256 of its manifest: it is not tried again."""

    manifest: bytes
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """Both slots.

    Attributes:
        active: the name of the slot that runs; empty: nothing does.
        pinned: the version to stay on; None: none.
        highest: the highest version that was ever in force here.
        failed: what is not tried again; the oldest are forgotten after 256.
        generation: grows with every change of what runs: to be watched.
    """

    slots: tuple[Slot, Slot] = (EMPTY, EMPTY)
    active: str = ""
    pinned: int | None = None
    highest: int = 0
    failed: tuple[Failure, ...] = field(default=())
    generation: int = 0

    def __getitem__(self, name: str) -> Slot:
        return self.slots[NAMES.index(name)]

    @property
    def running(self) -> Slot:
        """What runs; `EMPTY`: nothing."""
        return self[self.active] if self.active else EMPTY

    @property
    def spare(self) -> str:
        """The slot that may be written to."""
        return "b" if self.active == "a" else "a"

    def failure(self, manifest: bytes) -> Failure | None:
        """How the version with this manifest failed here, if it did."""
        return next((item for item in self.failed if item.manifest == manifest), None)

    def emptied(self) -> Self:
        """The spare slot is given up: before anything in it is touched."""
        return self.with_slot(self.spare, EMPTY)

    def filled(self, name: str, version: int, sha256: bytes, manifest: bytes) -> Self:
        """The slot that was given up holds a version, all of it on the disk.

        It goes by its name: whoever rolled back in the meantime may have made another one the spare.
        """
        return self.with_slot(name, Slot("pending", version, sha256, manifest))

    def tried(self, name: str) -> Self:
        """A slot is about to be tried: written down before, for the attempt may not come back."""
        slot = self[name]
        return self.with_slot(name, replace(slot, state="trying", attempts=slot.attempts + 1))

    def taken(self, name: str, *, trial: bool) -> Self:
        """A slot is what runs from now on; on trial until `committed`."""
        made = self.with_slot(name, self[name] if trial else replace(self[name], state="good", attempts=0))
        highest = self.highest if trial else max(self.highest, self[name].version)
        return replace(made, active=name, highest=highest, generation=self.generation + 1)

    def committed(self) -> Self:
        """What is on trial has passed. Unchanged where nothing is."""
        if self.running.state != "trying":
            return self
        made = self.with_slot(self.active, replace(self.running, state="good", attempts=0))
        return replace(made, highest=max(self.highest, self.running.version))

    def superseded(self) -> Self:
        """What is on trial gives way to the good version before it, for a newer one to come. It has not failed.

        Unchanged where nothing is on trial, or nothing good is before it.
        """
        if self.running.state != "trying" or self[self.spare].state != "good":
            return self
        return replace(self.with_slot(self.active, EMPTY), active=self.spare, generation=self.generation + 1)

    def refused(self, name: str, reason: str, *, remember: bool = True) -> Self:
        """A slot has failed; if it ran, the other one does from now on, if it is good, and nothing otherwise.

        Not to `remember` is for files that rotted: the version itself may be tried again.
        """
        slot = self[name]
        made = self.with_slot(name, replace(slot, state="bad"))
        if remember:
            failure = Failure(slot.manifest, slot.version, reason[:500])
            kept = [item for item in self.failed if item.manifest != slot.manifest]
            made = replace(made, failed=(*kept, failure)[-_MOST_FAILURES:])
        if name != self.active:
            return made
        other = made.spare
        return replace(
            made,
            active=other if made[other].state == "good" else "",
            pinned=None if self.pinned == slot.version else self.pinned,
            generation=self.generation + 1,
        )

    def booted(self, most: int) -> Self:
        """What a start makes of attempts that did not come back: tried again, or failed after `most` of them."""
        made = self
        for name in NAMES:
            slot = made[name]
            if slot.state != "trying":
                continue
            if slot.attempts >= most:
                made = made.refused(name, f"{slot.attempts} attempts ended without a word")
            elif name == made.active:
                made = made.tried(name)  # it goes on running, and this is its next attempt
            else:
                made = made.with_slot(name, replace(slot, state="pending"))
        return made

    def encode(self) -> bytes:
        """The file's content."""
        return dumps(
            {
                "format": _FORMAT,
                "slots": [[s.state, s.version, s.sha256, s.manifest, s.attempts] for s in self.slots],
                "active": self.active,
                "pinned": self.pinned,
                "highest": self.highest,
                "failed": [[item.manifest, item.version, item.reason] for item in self.failed],
                "generation": self.generation,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The state in a file's content. Raises: ConfigError: it is damaged."""
        try:
            fields = Fields.read(data, _FORMAT, max_bytes=_MOST_BYTES)
            first, second = map(_slot, fields.take("slots", list))
            made = cls(
                (first, second),
                fields.take("active", str),
                fields.maybe("pinned", int),
                fields.take("highest", int),
                tuple(map(_failure, fields.take("failed", list))),
                fields.take("generation", int),
            )
            fields.finish()
        except (RegistryError, ValueError) as error:
            raise ConfigError(f"the state of the slots is damaged ({error}): put back a copy") from error
        if made.active not in {"", *NAMES} or (made.active and made.running.state not in {"good", "trying"}):
            raise ConfigError("the state of the slots contradicts itself: put back a copy")
        return made

    def with_slot(self, name: str, slot: Slot) -> Self:
        """With another slot of this name."""
        slots = (slot, self.slots[1]) if name == "a" else (self.slots[0], slot)
        return replace(self, slots=slots)


def _slot(item: Any) -> Slot:
    match item:
        case [str(state), int(version), bytes(sha256), bytes(manifest), int(attempts)] if state in SLOT_STATES:
            return Slot(state, version, sha256, manifest, attempts)
        case _:
            raise ValueError("a slot is none")


def _failure(item: Any) -> Failure:
    match item:
        case [bytes(manifest), int(version), str(reason)]:
            return Failure(manifest, version, reason)
        case _:
            raise ValueError("a failure is none")
