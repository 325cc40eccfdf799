"""The report's figures: each a plot, a heading and one sentence that says what is seen."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedmesh.dashboard import plots
from fedmesh.dashboard.text import counted, escape, milliseconds, number, percent, size

__all__ = ["gallery"]


def gallery(result: Mapping[str, Any]) -> str:
    """All figures that the result has data for."""
    return f'<section class="figures" aria-label="Figures">\n{"".join(_all(result))}</section>'


def _all(result: Mapping[str, Any]) -> Iterator[str]:
    yield _accuracy(result)
    rounds, privacy = result["rounds"], result.get("privacy") or {}
    if rounds[-1]["epsilon"] is not None:
        yield _figure(
            "Privacy spent",
            f"Epsilon of the device that spent most, at delta {number(result['final']['delta'])}. "
            "A device whose budget is used up takes no further step.",
            plots.epsilon_by_round(rounds, privacy.get("epsilon")),
        )
    devices = result.get("devices") or []
    if devices:
        yield _devices(result)
        yield _partition(result)
    yield _bytes(result)
    if result.get("latency_ms"):
        yield _latency(result)
    if result.get("failures"):
        yield _failures(result)


def _accuracy(result: Mapping[str, Any]) -> str:
    final, rounds, start = result["final"], result["rounds"], result.get("start") or {}
    begun = start.get("accuracy_int8")
    sentence = f"The int8 model in ONNX Runtime, on held-out examples, after each of {counted(len(rounds), 'round')}"
    sentence += "." if begun is None else f", from {percent(begun)} at the public start."
    plot = plots.accuracy_by_round(rounds, begun, final["accuracy_float"])
    return _figure("Accuracy by round", sentence, plot)


def _devices(result: Mapping[str, Any]) -> str:
    devices, overall = result["devices"], result["final"]["accuracy_int8"]
    known = [row for row in devices if row["accuracy_int8"] is not None]
    if not known:
        return ""
    worst = min(known, key=lambda row: row["accuracy_int8"])
    sentence = (
        f"On each device's own held-out examples. Lowest: device {escape(worst['device'])} with "
        f"{percent(worst['accuracy_int8'])}; the dashed line is the accuracy on all held-out examples."
    )
    return _figure("Accuracy by device", sentence, plots.accuracy_by_device(devices, overall))


def _partition(result: Mapping[str, Any]) -> str:
    devices = result["devices"]
    counts = [row["examples"] for row in devices]
    shown = len(plots.evenly(devices, plots.MOST_ROWS))
    which = "" if shown == len(devices) else f" {shown} of {len(devices)} devices are shown."
    sentence = f"Training examples by class: {min(counts)} to {max(counts)} on a device. They never leave it.{which}"
    return _figure("Who has what", sentence, plots.partition(devices, result["classes"]))


def _bytes(result: Mapping[str, Any]) -> str:
    final, rounds = result["final"], result["rounds"]
    asked = sum(row["clients"] for row in rounds)
    up, down = (sum(row[key] * row["clients"] for row in rounds) / max(asked, 1) for key in ("bytes_up", "bytes_down"))
    stages = [stage for row in rounds for stage in row.get("stages") or []]
    sentence = (
        "Measured: what a device that is asked receives in a round, what one that is not lost sends (means), and the "
        "model files."
    )
    if stages:  # of the means no total can be made: they are over different devices
        all_up, all_down = (sum(stage[key] for stage in stages) for key in ("bytes_up", "bytes_down"))
        sentence += f" The whole run: {size(all_up)} up, {size(all_down)} down."
    return _figure("Bytes", sentence, plots.bytes_sent(up, down, final["bytes_int8"], final["bytes_float"]))


def _latency(result: Mapping[str, Any]) -> str:
    kinds = result["latency_ms"]
    if {"int8", "float"} <= set(kinds):
        ratio = kinds["float"]["p50"] / kinds["int8"]["p50"]
        compared = (
            f"int8 is {ratio:.1f}x as fast as float32"
            if ratio >= 1
            else f"int8 takes {1 / ratio:.1f}x as long as float32"
        )
        compared += "." if ratio >= 1 else ": common for a model this small, where quantizing the input dominates."
    else:
        compared = ", ".join(f"{escape(kind)} {milliseconds(times['p50'])}" for kind, times in kinds.items()) + "."
    return _figure(
        "Latency", f"One example in ONNX Runtime on this machine, one thread: {compared}", plots.latency(kinds)
    )


def _failures(result: Mapping[str, Any]) -> str:
    failed, rounds = result["failures"], result["rounds"]
    asked = sum(row["clients"] for row in rounds)
    went_on = "most rounds" if any(row.get("failed") for row in rounds) else "the rounds"
    sentence = f"{len(failed)} of {asked} times a device was asked and did not make it; {went_on} went on without it."
    return _figure("Failures", sentence, plots.failures(failed, rounds[-1]["round"]))


def _figure(title: str, sentence: str, plot: str) -> str:
    return f"<figure>\n<figcaption><h2>{title}</h2><p>{sentence}</p></figcaption>\n{plot}\n</figure>\n"
