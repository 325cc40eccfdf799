"""``fedmesh infer``: an exported model on held-out examples, as a device would run it, or behind an HTTP endpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from click import UsageError

from fedmesh.cli.printing import print_json
from fedmesh.cli.simulate import DATA_HELP

__all__ = ["command"]


_SERVING = "Serving"


def command(  # noqa: PLR0917 - the options of a command line
    model: Annotated[Path | None, typer.Argument(metavar="MODEL.onnx", help="The model.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.npz", help="A data set's held-out part, or arrays x and y in a file."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(metavar="features.cbor", help="The run's map from data to the model's inputs."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of ONNX Runtime.")] = 1,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Answer over HTTP until Ctrl-C.", rich_help_panel=_SERVING)
    ] = False,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where; port 0: any.", rich_help_panel=_SERVING)
    ] = "127.0.0.1:8000",
    served: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model.", rich_help_panel=_SERVING)
    ] = None,
    slots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Or what runs by the slots of an agent, also later.", rich_help_panel=_SERVING
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="T", help="Hand off what is less sure.", rich_help_panel=_SERVING),
    ] = None,
    handoff: Annotated[
        str | None, typer.Option(metavar="URL", help="Where a bigger model answers.", rich_help_panel=_SERVING)
    ] = None,
    handoff_peer: Annotated[
        str | None, typer.Option(metavar="ID", help="Who answers there.", rich_help_panel=_SERVING)
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="This node's folder: mutual TLS with members.", rich_help_panel=_SERVING),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve without TLS, whoever can reach it.", rich_help_panel=_SERVING)
    ] = False,
) -> None:
    """Measure a model in ONNX Runtime: its accuracy, and the latency of one example. Or serve it."""
    if serve:
        from fedmesh.cli.infer_serve import Options, run

        _refuse({"--data": data, "--features": features, "--json": as_json}, "is not for --serve")
        if model is not None and served is not None:
            raise UsageError(f"two models are named, {model} and {served}: leave one out")
        return run(
            Options(
                listen,
                served or model,
                slots,
                threshold,
                handoff,
                handoff_peer,
                identity,
                insecure=insecure,
                threads=threads,
            )
        )
    only_served = {"--model": served, "--slots": slots, "--threshold": threshold, "--handoff": handoff}
    _refuse(
        {**only_served, "--handoff-peer": handoff_peer, "--identity": identity, "--insecure": insecure}, "needs --serve"
    )
    if model is None:
        raise UsageError("Missing argument 'MODEL.onnx'.")
    if data is None:
        raise UsageError("Missing option '--data'.")
    return _measure(model, data, features, threads, data_dir, as_json=as_json)


def _refuse(options: dict[str, Any], why: str) -> None:
    """Options that were given and mean nothing here."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise UsageError(f"{name} {why}")


def _measure(
    model: Path, data: str, features: Path | None, threads: int, data_dir: Path | None, *, as_json: bool
) -> None:
    from fedmesh.cli.held_out import held_out
    from fedmesh.features import load
    from fedmesh.inference import Engine, Latency, evaluate
    from fedmesh.types import Examples

    engine = Engine(model, threads=threads)
    examples, origin = held_out(data, model, data_dir)
    if features is not None:
        examples = Examples(load(features)(examples.x), examples.y)
    evaluation = evaluate(engine, examples)
    latency = Latency.of(engine.measure(examples.x))
    report = {
        "accuracy": evaluation.accuracy,
        "count": evaluation.count,
        "latency_ms": asdict(latency),
        "loss": evaluation.loss,
        "examples": origin,
        "features": None if features is None else str(features),
        "model": str(model),
        "sha256": engine.sha256,
        "bytes": engine.size_bytes,
        "threads": threads,
    }
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fedmesh.dashboard.text import milliseconds, percent, size

    latency, threads = report["latency_ms"], report["threads"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("accuracy", f"{percent(report['accuracy'])} of {report['count']} examples, loss {report['loss']:.3f}")
    table.add_row("examples", report["examples"])
    table.add_row(
        "latency",
        ", ".join(f"{name} {milliseconds(value)}" for name, value in latency.items())
        + f", {threads} thread{'s' if threads > 1 else ''}",
    )
    table.add_row("model", f"{report['model']}, {size(report['bytes'])}, SHA-256 {report['sha256'][:16]}")
    Console(highlight=False, markup=False).print(table)
