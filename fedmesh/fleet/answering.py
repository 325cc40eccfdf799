"""Predictions by the agent's own process: `fedmesh.inference` over the slots that models are installed into.

Imported where ``[inference] listen`` asks for it: what serves HTTP takes its memory.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from fedmesh.configuration import ClientConfig
from fedmesh.errors import FedMeshError
from fedmesh.events import Event, EventSink, SwapRefused
from fedmesh.identity import Membership
from fedmesh.inference import Confident, LiveModel, Verdict
from fedmesh.inference.handoff import HttpFallback, is_loopback
from fedmesh.inference.metrics import InferenceCollector
from fedmesh.inference.serving import Service, answer, build, listener
from fedmesh.inference.watch import Watch, installed
from fedmesh.registry import Slots

if TYPE_CHECKING:
    from fedmesh.inference import Engine
    from fedmesh.inference.serving.peers import Guard

__all__ = ["Answering"]


class Answering:
    """An endpoint of the device of `config`, which asks for one.

    Args:
        slots: what runs.
        on_refused: told of a model's path and why it does not answer, by `look`.
        on_verdict: told of a model's SHA-256 and what came of its trial, by `look`.
        registry: where its metrics go, and what ``/metrics`` beside ``/predict`` shows.
        events: told of swaps.

    Attributes:
        live: the model.

    Raises:
        ConfigError: it cannot listen there, or the hand-off is none.
    """

    def __init__(
        self,
        config: ClientConfig,
        slots: Slots,
        *,
        on_refused: Callable[[Path, str], None],
        on_verdict: Callable[[str, Verdict], None],
        registry: CollectorRegistry,
        events: EventSink,
    ) -> None:
        section = config.inference
        assert section is not None
        assert section.listen is not None
        self._slots, self._events, self._registry = slots, events, registry
        self.live = LiveModel(load=installed(slots), check=_probed, on_verdict=on_verdict, events=self._tell)
        self._watch = Watch(slots, self.live, on_refused=on_refused)
        identity, confident = config.identity.folder, None
        if section.handoff is not None:
            fallback = HttpFallback(
                section.handoff, peer=section.handoff_peer, membership=partial(Membership, identity)
            )
            confident = Confident(self.live, fallback, threshold=section.threshold)
        self._guard = None if is_loopback(section.listen.host) else _guard(identity)
        self._service = Service(self.live, confident=confident, checks={"slots": lambda: self._watch.trouble})
        if self._guard is not None:
            self._service.checks["certificate"] = self._guard.not_ready
        self._collector = InferenceCollector(
            self.live,
            handoffs=None if confident is None else confident.counts,
            requests=self._service.counts,
            peers=None if self._guard is None else self._guard.counts,
        )
        registry.register(self._collector)
        self._bound = listener(section.listen.host, section.listen.port)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._bound.getsockname()[1]
        return port

    def begin(self) -> None:
        """The first look. Blocks, as `look` does.

        A model that was on trial when the last process ended is tried again, with the one before it behind it.
        """
        state = self._slots.state
        if state.running.state == "trying" and state[state.spare].state == "good":
            try:
                self.live.swap(self._slots.files()[state[state.spare].sha256])
            except FedMeshError as error:
                self._tell(SwapRefused(state.spare, str(error)))
        self.look()

    def look(self) -> None:
        """Lets what runs by the slots answer, and tells of verdicts. Not from two threads at a time."""
        self._watch.look()

    def fault(self) -> str | None:
        """A real inference: what is wrong with the model that answers; None: nothing, or there is none yet."""
        engine = self.live.current
        try:
            if engine is not None:
                engine.warm_up(1)
        except FedMeshError as error:
            return str(error)
        return None

    def unready(self) -> str | None:
        """What keeps it from answering."""
        found = {name: why for name, why in self._service.readiness().items() if why}
        return "; ".join(f"{name}: {why}" for name, why in found.items()) or None

    async def serve(self) -> None:
        """Answers until it is cancelled; requests that began are answered then."""
        await answer(build(self._service, self._registry), self._service, self._bound, guard=self._guard)

    def close(self) -> None:
        """For what was never served; idempotent."""
        self._bound.close()

    def _tell(self, event: Event) -> None:
        self._collector.event(event)
        self._events(event)


def _probed(engine: "Engine") -> None:
    from fedmesh.inference.probe import probe  # and numpy, which is wanted once there is a model

    probe(engine)


def _guard(folder: Path) -> "Guard":
    from fedmesh.inference.serving.peers import Guard

    return Guard(folder)
