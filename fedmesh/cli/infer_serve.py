"""``fedmesh infer --serve``: puts the endpoint together from what stands on the command line."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedmesh.errors import ConfigError
from fedmesh.events import Event, EventSink, ModelProven, ModelSwapped, SwapRefused, SwapUndone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmesh.identity import Membership
    from fedmesh.inference import LiveModel
    from fedmesh.inference.serving import Service
    from fedmesh.inference.serving.peers import Guard
    from fedmesh.inference.serving.service import Check
    from fedmesh.inference.watch import Watch

__all__ = ["Options", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator said."""

    listen: str
    model: Path | None
    slots: Path | None
    threshold: float | None
    handoff: str | None
    handoff_peer: str | None
    identity: Path | None
    insecure: bool
    threads: int


def run(options: Options) -> None:
    """Serves until a signal. Raises: ConfigError: what was asked for does not go together, or cannot be had."""
    _check(options)
    _require_extra()
    from prometheus_client import CollectorRegistry

    from fedmesh.cli import durations
    from fedmesh.inference.metrics import InferenceCollector
    from fedmesh.inference.serving import build, listener, serve

    host, port = durations.address(options.listen, any_port=True)
    _check_listen(host, options)
    guard = None if options.identity is None or options.insecure else _guard(options.identity)
    sinks: list[EventSink] = [_say]
    live, watch = _model(options, sinks)
    service = _service(options, live, watch, guard)
    collector = InferenceCollector(
        live,
        handoffs=None if service.confident is None else service.confident.counts,
        requests=service.counts,
        peers=None if guard is None else guard.counts,
    )
    sinks.append(collector.event)
    registry = CollectorRegistry()
    registry.register(collector)
    if options.model is not None:
        live.swap(options.model)
    bound = listener(host, port)
    where = f"{'http' if guard is None else 'https'}://{_shown(host)}:{bound.getsockname()[1]}"
    if watch is not None:
        watch.look()

    def started() -> None:
        typer.echo(f"Predictions at {where}/predict. Ctrl-C ends it.", err=True)

    serve(build(service, registry), service, bound, guard=guard, watch=watch, started=started)
    typer.echo("Stopped.", err=True)


def _check(options: Options) -> None:
    if (options.model is None) == (options.slots is None):
        raise ConfigError("what to serve: name a model (--model FILE) or a folder of slots (--slots DIR), one of them")
    if (options.threshold is None) != (options.handoff is None):
        raise ConfigError("--threshold says which examples go to --handoff: name both, or neither")
    if options.handoff_peer is not None and options.handoff is None:
        raise ConfigError("--handoff-peer is who answers at --handoff: name that too")
    if options.insecure and options.identity is not None and options.handoff is None:
        raise ConfigError("--insecure is to serve without TLS, --identity with it: leave one out")


def _check_listen(host: str, options: Options) -> None:
    from fedmesh.inference.handoff import is_loopback

    if options.identity is None and not options.insecure and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from elsewhere, and without TLS anybody there could ask and read along: name this "
            "node's folder (--identity DIR, made by fedmesh enroll), or say --insecure"
        )


def _require_extra() -> None:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} is not installed: pip install 'fedmesh[serve]'")


def _model(options: Options, sinks: "Sequence[EventSink]") -> "tuple[LiveModel, Watch | None]":
    from fedmesh.inference import Engine, LiveModel
    from fedmesh.inference.probe import probe
    from fedmesh.inference.watch import Watch, installed, slots_in

    def tell(event: Event) -> None:
        for sink in sinks:
            sink(event)

    if options.slots is None:
        return LiveModel(load=partial(Engine, threads=options.threads), check=probe, events=tell), None
    slots = slots_in(options.slots)
    live = LiveModel(load=installed(slots, threads=options.threads), check=probe, events=tell)
    return live, Watch(slots, live)


def _service(options: Options, live: "LiveModel", watch: "Watch | None", guard: "Guard | None") -> "Service":
    from fedmesh.inference import Confident
    from fedmesh.inference.handoff import HttpFallback
    from fedmesh.inference.serving import Service

    confident = None
    if options.handoff is not None and options.threshold is not None:
        membership = None if options.identity is None else partial(_membership, options.identity)
        fallback = HttpFallback(options.handoff, peer=options.handoff_peer, membership=membership)
        confident = Confident(live, fallback, threshold=options.threshold)
    checks: dict[str, Check] = {}
    if watch is not None:
        checks["slots"] = lambda: watch.trouble
    if guard is not None:
        checks["certificate"] = guard.not_ready
    return Service(live, confident=confident, checks=checks)


def _guard(folder: Path) -> "Guard":
    from fedmesh.inference.serving.peers import Guard

    return Guard(folder)


def _membership(folder: Path) -> "Membership":
    from fedmesh.identity import Membership

    return Membership(folder)


def _say(event: Event) -> None:
    match event:
        case ModelSwapped():
            typer.echo(f"The model {event.sha256[:12]} answers now.", err=True)
        case SwapRefused():
            typer.echo(f"warning: {event.path} is refused: {event.reason}", err=True)
        case ModelProven():
            typer.echo(f"The model {event.sha256[:12]} does well.", err=True)
        case SwapUndone():
            typer.echo(f"warning: back to the model {event.to[:12]}: {event.reason}", err=True)
        case _:
            pass


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
