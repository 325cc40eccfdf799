"""A device's deliveries: what its coordinator announces is fetched, verified, tried, and runs or is gone back from.

An announcement is a reason to look, and no more: it is unsigned, and whoever makes them up without end is followed less
and less often. What is believed is `fedmesh.registry.install`'s business. All that blocks is done in one thread.
"""

import asyncio
import logging
import platform
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from fedmesh.configuration import ClientConfig
from fedmesh.errors import ConfigError, FedMeshError, MismatchError, PeerError, RegistryError
from fedmesh.events import Event, EventSink, ModelInstalled, ModelRefused, ModelRolledBack, ignore
from fedmesh.fleet.probing import probe_apart
from fedmesh.identity import Membership
from fedmesh.registry import Source
from fedmesh.registry.install import Installer
from fedmesh.transport.backoff import Backoff
from fedmesh.transport.courier import Courier
from fedmesh.transport.files import RemoteFiles

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from fedmesh.fleet.agent import Agent
    from fedmesh.fleet.answering import Answering
    from fedmesh.inference import Verdict

__all__ = ["Receiver"]

ANNOUNCED = "model"
EVERY_S = 6 * 3600.0
"""So often a device looks though nobody told it to."""
PAUSE_S, LONGEST_S = 2.0, 600.0
"""Between two looks, doubling while they come to nothing."""
_LOOK_S = 1.0
_FETCH_S = 300.0
_WINDOW = 4
"""Chunks that are asked for at a time: on a link with a delay each one alone would cost a round trip."""
_REPORT_S = 30.0

_Found = Literal["news", "nothing", "trouble"]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Receiver:
    """Of one device, of its first coordinator's models.

    Args:
        config: of the device, with ``[registry]``. membership: who it is.
        carrier: whose announcements are heard, and over which files are fetched.
        files: of the first coordinator, entered by who gives them; None: opened here.
        registry: where metrics of inference go; None: nowhere.
        pause_s, longest_s, every_s: see the module's constants.
        clock: Unix seconds. chance: jitter. events: told what happens.

    Attributes:
        answering: what serves predictions; None: nothing does, or it has not begun.
    """

    def __init__(
        self,
        config: ClientConfig,
        membership: Membership,
        carrier: Courier,
        *,
        files: RemoteFiles | None = None,
        registry: "CollectorRegistry | None" = None,
        pause_s: float = PAUSE_S,
        longest_s: float = LONGEST_S,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
        events: EventSink = ignore,
    ) -> None:
        self.answering: Answering | None = None
        self._config, self._membership, self._carrier, self._registry = config, membership, carrier, registry
        self._server = config.coordinators[0]
        self._files, self._opens = files or RemoteFiles(carrier.channel("files"), self._server), files is None
        self._chance = chance or random.Random()  # noqa: S311 - jitter
        self._backoff = Backoff(self._chance, first_s=pause_s, longest_s=longest_s)
        self._every_s, self._clock, self._events = every_s, clock, events
        self._pool = ThreadPoolExecutor(1, "models")
        self._installer: Installer | None = None
        self._news, self._told = asyncio.Event(), asyncio.Event()
        self._due = True
        self._outcomes: deque[tuple[int, str]] = deque(maxlen=32)
        self._loop = asyncio.get_running_loop()

    @property
    def refused(self) -> Mapping[str, int]:
        """What was refused, by code of `REGISTRY_CODES`."""
        return Counter() if self._installer is None else self._installer.refused

    @property
    def files(self) -> RemoteFiles:
        """Its coordinator's, for who fetches something else from there; there while `run` runs."""
        return self._files

    @property
    def strange(self) -> Mapping[str, int]:
        """What of files was out of the ordinary, by reason."""
        return self._files.counts

    def fault(self) -> str | None:
        """A real inference, where predictions are served: what is wrong; None: nothing."""
        return None if self.answering is None else self.answering.fault()

    def unready(self) -> str | None:
        """What keeps predictions from being served."""
        return "it has not begun" if self.answering is None else self.answering.unready()

    async def run(self, agent: "Agent") -> None:
        """For ever, beside `agent`, whose `model` it sets and through which it reports.

        Raises:
            ConfigError: no root is trusted, its folder is damaged or another process's, or it cannot listen.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self._close)
            if self._opens:
                await stack.enter_async_context(self._files)
            source = self._files.source(timeout_s=_FETCH_S)
            stack.callback(source.close)  # before its thread is waited for
            installer = self._installer = await self._blocking(lambda: self._opened(source))
            self._carrier.subscribe(ANNOUNCED, self._heard)
            stack.callback(self._carrier.unsubscribe, ANNOUNCED, self._heard)
            await self._prepare(installer)
            self._told.set()
            jobs = [self._follow(installer), self._report(agent, installer)]
            if self.answering is not None:
                jobs += [self.answering.serve(), self._look(self.answering)]
            tasks = [asyncio.ensure_future(job) for job in jobs]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # In the thread.

    def _opened(self, source: Source) -> Installer:
        section, machine = self._config.registry, platform.machine().lower()
        assert section is not None
        return Installer(
            self._config.registry_folder,
            source=source,
            probe=lambda path, _manifest: probe_apart(path),
            trusted_root=section.trusted_root,
            device=self._membership.name.id,
            tags={machine, {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine), self._config.tier},
            window=_WINDOW,
            trial=self._config.inference is not None and self._config.inference.listen is not None,
            clock=lambda: self._membership.now(self._clock()),
            events=self._happened,
        )

    def _endpoint(self, installer: Installer) -> "Answering":
        if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
            raise ConfigError(
                f"[inference] listen needs {' and '.join(missing)}, not installed: pip install 'fedmesh[serve]'"
            )
        from prometheus_client import CollectorRegistry

        from fedmesh.fleet.answering import Answering

        def refused(path: Path, reason: str) -> None:
            if installer.current == path:
                installer.rollback(reason)

        def judged(sha256: str, verdict: "Verdict") -> None:
            if installer.slots.state.running.sha256.hex() != sha256:
                return  # a newer one is in its place
            if verdict.good:
                installer.commit()
            else:
                installer.rollback(verdict.reason)

        return Answering(
            self._config,
            installer.slots,
            on_refused=refused,
            on_verdict=judged,
            registry=self._registry or CollectorRegistry(),
            events=self._events,
        )

    def _tried_again(self, installer: Installer) -> None:
        """What is on trial though nothing answers here that could try it: its probe decides."""
        if installer.slots.state.running.state == "trying" and (path := installer.current) is not None:
            try:
                probe_apart(path)
            except MismatchError as error:
                installer.rollback(f"its probe failed: {error}")
            else:
                installer.commit()

    def _settled(self, installer: Installer) -> None:
        """A model with none before it to go back to, or with the bytes of that one, is not on trial."""
        assert self.answering is not None
        live = self.answering.live
        if not live.on_trial and live.sha256 == installer.slots.state.running.sha256.hex():
            installer.commit()

    def _happened(self, event: Event) -> None:
        if (outcome := _outcome(event)) is not None:
            self._outcomes.append(outcome)
            self._loop.call_soon_threadsafe(self._told.set)
        self._events(event)

    def _close(self) -> None:
        self._pool.shutdown()
        if self._installer is not None:
            self._installer.close()
        if self.answering is not None:
            self.answering.close()

    # On the event loop.

    async def _blocking(self, step: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._pool, step)

    async def _prepare(self, installer: Installer) -> None:
        section = self._config.inference
        if section is None or section.listen is None:
            await self._blocking(lambda: self._tried_again(installer))
            return
        self.answering = answering = await self._blocking(lambda: self._endpoint(installer))
        _log.info("predictions at %s:%d/predict", section.listen.host, answering.port)
        await self._blocking(answering.begin)
        await self._blocking(lambda: self._settled(installer))

    def _heard(self, peer: str, _data: bytes) -> None:
        if peer == self._server:
            self._news.set()

    async def _follow(self, installer: Installer) -> None:
        while True:
            if not self._due:
                try:
                    async with asyncio.timeout(self._every_s * self._chance.uniform(0.5, 1.0)):
                        await self._news.wait()
                except TimeoutError:
                    self._due = True
            self._news.clear()
            due, self._due = self._due, False
            hint = self._carrier.announced.get((self._server, ANNOUNCED), b"")
            found: _Found = "nothing"
            if due or (hint and installer.is_news(hint)):
                found = await self._update(installer)
            if found == "news" or (due and found == "nothing"):
                self._backoff.reset()
            self._due = self._due or found == "trouble"
            await asyncio.sleep(self._backoff.next_s())

    async def _update(self, installer: Installer) -> _Found:
        seen = installer.seen
        try:
            installed = await self._blocking(installer.update)
        except RegistryError as error:
            _log.warning("a model is refused (%s): %s", error.code, error)
            return "nothing" if error.code == "probe" else "trouble"  # what was altered on its way may come whole
        except PeerError as error:
            _log.info("%s cannot be asked for models: %s", self._server, error)
            self._outcomes.append((0, "unreachable"))
            self._told.set()
            return "trouble"
        except FedMeshError as error:
            _log.error("models cannot be kept: %s", error)
            return "trouble"
        except Exception:  # noqa: BLE001 - whatever was sent, the device goes on with what it has
            _log.exception("what was delivered could not be dealt with")
            return "trouble"
        if installed is not None and (answering := self.answering) is not None:
            await self._blocking(answering.look)
            await self._blocking(lambda: self._settled(installer))
        return "news" if installed is not None or installer.seen > seen else "nothing"

    async def _look(self, answering: "Answering") -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._blocking(answering.look)
            except Exception:  # noqa: BLE001 - requests are answered meanwhile, and the next look may do better
                _log.exception("the slots could not be looked at, which is tried again")

    async def _report(self, agent: "Agent", installer: Installer) -> None:
        """Tells the coordinator which version runs, and what became of others; the same word once."""
        said: tuple[int, str] | None = None
        while True:
            await self._told.wait()
            self._told.clear()
            running = installer.slots.state.running.version
            if agent.model != running:
                agent.model = running
                agent.changed()
            while self._outcomes:
                outcome = self._outcomes.popleft()
                if outcome == said:
                    continue
                said = outcome
                try:
                    async with asyncio.timeout(_REPORT_S):
                        await agent.report(self._server, *outcome)
                except TimeoutError:
                    _log.warning("what became of model %d was not reported: there is no room for messages", outcome[0])


def _outcome(event: Event) -> tuple[int, str] | None:
    """The version, 0 for none that is known, and the word that a coordinator is told; None: it is told nothing."""
    match event:
        case ModelInstalled():
            return event.version, "installed"
        case ModelRefused():
            return event.version or 0, "failed-probe" if event.code == "probe" else "refused"
        case ModelRolledBack():
            return event.version, "rolled-back"
    return None
