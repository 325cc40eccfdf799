"""The coordinator's deliveries: what a task hands over becomes the next signed version, and devices are told of it.

A version is published on the task's thread; it is announced, and what is announced kept fresh, on the event loop. What
is announced is a hint: a device believes signatures alone.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.inference import Engine
from fedmesh.inference.probe import golden_set
from fedmesh.registry import Facts
from fedmesh.registry.founding import ROOT_KEY, create
from fedmesh.registry.manifest import Schema
from fedmesh.registry.repository import Repository

if TYPE_CHECKING:
    from fedmesh.fleet.task_run import Handover

__all__ = ["ANNOUNCED", "PREFIXES", "Announcer", "Deliveries", "open_repository"]

ANNOUNCED = "model"
PREFIXES = ("metadata", "targets", "chunks")
"""With what the names of a repository's public files begin."""
_LOOK_EVERY_S = 30.0
_REFRESH_EVERY = 120
"""Looks from one to the next that signs anew what is about to expire: an hour."""

Read = Callable[..., bytes]


class Announcer(Protocol):
    """What of a transport is used here."""

    async def announce(self, what: str, data: bytes) -> None:
        """Says it to all, and to those who come later."""
        ...


def open_repository(folder: Path, *, events: EventSink = ignore) -> Repository:
    """The repository in `folder`, made if there is none: the day-one one, whose keys all lie beside it.

    Raises:
        ConfigError: it is damaged, or cannot be made.
    """
    if not folder.exists():
        create(folder)
        events(
            Notice(
                f"a repository of models was made in {folder}: devices need public/metadata/1.root.json of it as "
                f"[registry] trusted_root; move keys/{ROOT_KEY} to a medium of its own"
            )
        )
    return Repository.open(folder, events=events)


class Deliveries:
    """Of one coordinator, for one of its tasks.

    Args:
        repository: of signed models.
        task: whose models are delivered.
        every: rounds between two versions; the last round's is delivered in any case.
        look_s: so often `serve` looks whether somebody else (`fedmesh model rollout`) has changed the repository.
        events: gets a Notice when something is wrong.
    """

    def __init__(
        self,
        repository: Repository,
        task: str,
        *,
        every: int = 1,
        look_s: float = _LOOK_EVERY_S,
        events: EventSink = ignore,
    ) -> None:
        self._repository, self._task, self._every, self._events = repository, task, every, events
        self._look_s = look_s
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble = ""

    @property
    def files(self) -> Mapping[str, Read]:
        """First part of a name -> where files of such names come from, for who serves them."""
        return dict.fromkeys(PREFIXES, self.read)

    def publish(self, handover: "Handover") -> None:
        """Signs the model as the next version, or leaves it: of another task, or between two deliveries.

        A version that lacks signatures of signers elsewhere waits for them, which is told.

        Raises:
            ConfigError, RegistryError: it cannot be signed or kept.
        """
        if handover.task != self._task or (handover.round % self._every and not handover.last):
            return
        engine = Engine(handover.model)
        newest = max(self._repository.versions(), key=lambda version: version.number, default=None)
        if newest is None or newest.sha256 != engine.sha256:  # else its hand-over was cut off behind the signature
            self._sign(handover, engine)
        self._tell_of_it()

    def _sign(self, handover: "Handover", engine: Engine) -> None:
        facts = Facts(
            task=handover.task,
            round=handover.round,
            survivors=handover.survivors,
            epsilon=handover.epsilon,
            scenario=handover.scenario,
            inputs=(Schema("float32", engine.input_shape),),
            outputs=(Schema("float32", (engine.input_shape[0], engine.classes)),),
        )
        made = self._repository.publish(handover.model, facts, golden=golden_set(engine, handover.examples))
        if made.missing:
            self._events(
                Notice(
                    f"version {made.number}, of round {handover.round}, waits for signatures ({made.missing}): its "
                    f"signers run fedmesh model sign {self._repository.folder} --key FILE"
                )
            )

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """A public file of the repository. Raises: RegistryError: there is none of this name, or it is longer."""
        return self._repository.read(name, max_bytes)

    async def serve(self, transport: Announcer) -> None:
        """Announces each version, and signs anew what is about to expire; for ever. What is wrong is told once."""
        self._loop = asyncio.get_running_loop()
        looks, announced = 0, b""
        while True:
            self._news.clear()
            try:
                pointer = await asyncio.to_thread(self._looked, refresh=looks % _REFRESH_EVERY == 0)
                if pointer != announced:
                    await transport.announce(ANNOUNCED, pointer)
                    announced = pointer
                self._trouble = ""
            except FedMeshError as error:
                self._told(f"the newest model is not announced: {error}")
            looks += 1
            try:
                async with asyncio.timeout(self._look_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _looked(self, *, refresh: bool) -> bytes:
        if refresh:
            try:
                self._repository.refresh()
            except ConfigError as error:  # its keys are elsewhere: what is signed is good for a while yet
                self._told(f"the registry cannot be signed anew: {error}")
        return self._repository.pointer()

    def _told(self, text: str) -> None:
        if text != self._trouble:
            self._events(Notice(text))
        self._trouble = text

    def _tell_of_it(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)
