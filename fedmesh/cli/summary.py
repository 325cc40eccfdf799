"""The end of a run on stdout: a table of rounds, the figures that matter, and where the files are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmesh.dashboard import promise
from fedmesh.dashboard.text import counted, milliseconds, percent, seconds, size

__all__ = ["print_summary"]

_MOST_ROUNDS = 20
"""A longer run is shown by this many rounds at equal distances; result.json and the report have all of them."""

_MOST_REASONS, _MOST_NUMBERS = 3, 8
"""So many reasons for lost rounds, and numbers of rounds, are told."""


def print_summary(result: Mapping[str, Any], folder: Path) -> None:
    """Prints `result`, the content of result.json, as tables."""
    console = Console(highlight=False)
    console.print()
    console.print(_rounds(result))
    console.print(_figures(result))
    console.print()
    for name in ("report.html", result["final"]["model"], "result.json"):
        if (folder / name).is_file():
            console.print(f" {folder / name}", markup=False, soft_wrap=True)  # a path is not broken: it is copied


def _rounds(result: Mapping[str, Any]) -> Table:
    rounds = result["rounds"]
    private = any(row["epsilon"] is not None for row in rounds)
    title = (
        f" [bold]{result['scenario']}[/], seed {result['seed']}: int8 model on held-out examples, bytes of one device"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1))
    headings = ["round", "devices", "accuracy", "loss", *(["epsilon"] if private else []), "up", "down", "time"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    start = result.get("start")
    if start:
        spent = ["0.00"] if private else []
        table.add_row("start", "", percent(start["accuracy_int8"]), f"{start['loss']:.3f}", *spent, "", "", "")
    for row in _thinned(rounds):
        table.add_row(
            str(row["round"]),
            f"[yellow]{_devices(row)}[/]" if row.get("failed") else _devices(row),
            percent(row["accuracy_int8"]),
            "-" if row["loss"] is None else f"{row['loss']:.3f}",
            *([f"{row['epsilon']:.2f}"] if private else []),
            size(row["bytes_up"]),
            size(row["bytes_down"]),
            seconds(row["seconds"]),
        )
    return table


def _figures(result: Mapping[str, Any]) -> Table:
    final = result["final"]
    reached = f"[bold green]{percent(final['accuracy_int8'])}[/] int8 in ONNX Runtime"
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("accuracy", f"{reached}, {percent(final['accuracy_float'])} float")
    table.add_row(
        "checked",
        f"agreement {percent(final['agreement'])}, largest logit difference {final['max_abs_logit_difference']:g}",
    )
    table.add_row("privacy", _privacy(result))
    table.add_row("seen", _seen(result))
    tiers = [device.get("tier", "full") for device in result.get("devices") or ()]
    if lite := tiers.count("lite"):
        table.add_row("tiers", f"{lite} of {len(tiers)} devices are lite: they trained the last layer, without torch")
    if lost := _lost(result):
        table.add_row("lost", lost)
    table.add_row("model", f"{size(final['bytes_int8'])} int8, {size(final['bytes_float'])} float")
    latency = result.get("latency_ms") or {}
    if latency:
        table.add_row(
            "latency", ", ".join(f"{kind} {milliseconds(times['p50'])}" for kind, times in latency.items()) + " (p50)"
        )
    table.add_row("time", seconds(result["seconds"]))
    return table


def _devices(row: Mapping[str, Any]) -> str:
    return f"{row['survivors']}/{row['clients']}"


def _privacy(result: Mapping[str, Any]) -> str:
    final, privacy = result["final"], result.get("privacy") or {}
    if final["epsilon"] is None:
        return "none: no differential privacy"
    told = f"{promise.spent(result)}, of each {promise.whom(privacy)}\n{promise.foundation(privacy)}"
    return f"{told}\n[yellow]noise {privacy['noise']}[/]" if privacy.get("noise") else told


def _seen(result: Mapping[str, Any]) -> str:
    """What the coordinator got to see."""
    secure = result.get("secure_aggregation") or {}
    if not secure.get("enabled"):
        return "each device's update by itself: no secure aggregation"
    if not secure["sums"]:
        return "nothing: no sum was unmasked"
    seen = f"{counted(secure['sums'], 'sum')} over {secure['smallest_sum']} or more devices, no update by itself"
    return f"{seen}\n[yellow]keys {secure['keys']}[/]" if secure.get("keys") else seen


def _lost(result: Mapping[str, Any]) -> str:
    """Rounds that left the model as it was, by reason; empty if there were none."""
    reasons: dict[str, list[int]] = {}
    for row in result["rounds"]:
        if row.get("failed"):
            reasons.setdefault(row["failed"], []).append(row["round"])
    if not reasons:
        return ""
    count = sum(map(len, reasons.values()))
    often = sorted(reasons.items(), key=lambda item: -len(item[1]))
    told = [f"{_numbered(numbers)}: {escape(reason)}" for reason, numbers in often[:_MOST_REASONS]]
    more = [f"and {len(often) - len(told)} more reasons: see the report"] if len(often) > len(told) else []
    return "\n".join(
        [f"[yellow]{count} of {len(result['rounds'])} rounds, which left the model as it was[/]", *told, *more]
    )


def _numbered(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_NUMBERS])) + (", ..." if len(numbers) > _MOST_NUMBERS else "")
    return f"round {shown}" if len(numbers) == 1 else f"rounds {shown}"


def _thinned(rounds: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    count = len(rounds)
    if count <= _MOST_ROUNDS:
        return rounds
    wanted = {round(index * (count - 1) / (_MOST_ROUNDS - 1)) for index in range(_MOST_ROUNDS)}
    return [row for index, row in enumerate(rounds) if index in wanted]
