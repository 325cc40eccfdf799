"""``fedmesh infer``: an exported model on held-out examples, as a device would run it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmesh.cli.printing import print_json
from fedmesh.cli.simulate import DATA_HELP

__all__ = ["command"]


def command(  # noqa: PLR0917 - the options of a command line
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")],
    data: Annotated[
        str, typer.Option(metavar="NAME|FILE.npz", help="A data set's held-out part, or arrays x and y in a file.")
    ],
    features: Annotated[
        Path | None,
        typer.Option(metavar="features.cbor", help="The run's map from data to the model's inputs."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of ONNX Runtime.")] = 1,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model in ONNX Runtime: its accuracy, and the latency of one example."""
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
