"""The report's text: what came out, what was promised, and all figures as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedmesh.dashboard import promise, secure
from fedmesh.dashboard.text import counted, escape, milliseconds, number, percent, seconds, size, table

__all__ = ["details", "footer", "header", "promises", "tiles"]


def header(result: Mapping[str, Any]) -> str:
    """Name, and the run in one sentence."""
    final, rounds, start = result["final"], result["rounds"], result.get("start") or {}
    begun = "" if start.get("accuracy_int8") is None else f", from a public start of {percent(start['accuracy_int8'])}"
    description = (result.get("config") or {}).get("description") or ""
    return f"""<header>
<p class="brand">fedmesh<span> run report</span></p>
<h1>{escape(result["scenario"])}</h1>
<p class="description">{escape(description)}</p>
<p class="lead">The int8 model reached <strong>{percent(final["accuracy_int8"])}</strong> on held-out examples after
{counted(len(rounds), "round")} on {escape(result["clients"])} devices{begun}.</p>
<p class="facts">seed {escape(result["seed"])} · {seconds(result["seconds"])}</p>
</header>"""


def tiles(result: Mapping[str, Any]) -> str:
    """The figures that one looks for first."""
    final, last = result["final"], result["rounds"][-1]
    difference = final["max_abs_logit_difference"]
    exact = difference == 0
    shown = [
        ("Accuracy, int8", percent(final["accuracy_int8"]), f"{percent(final['accuracy_float'])} in float32"),
        (
            "Exported = checked" if _quantized_afterwards(result) else "Trained = deployed",
            "bit for bit" if exact else f"within {number(float(f'{difference:.1g}'))}",
            f"same answer on {percent(final['agreement'])} of inputs",
        ),
        _epsilon_tile(result),
        ("Model file", size(final["bytes_int8"]), f"{size(final['bytes_float'])} in float32"),
        ("A device sends", size(last["bytes_up"]), f"a round, and receives {size(last['bytes_down'])}"),
    ]
    latency = result.get("latency_ms") or {}
    if "int8" in latency:
        other = f", float32 {milliseconds(latency['float']['p50'])}" if "float" in latency else ""
        shown.append(("Latency, int8", milliseconds(latency["int8"]["p50"]), f"median{other}"))
    items = (
        f'<div><dt>{label}</dt><dd><span class="value">{value}</span> <span class="note">{note}</span></dd></div>'
        for label, value, note in shown
    )
    return f'<dl class="tiles">\n{chr(10).join(items)}\n</dl>'


def _epsilon_tile(result: Mapping[str, Any]) -> tuple[str, str, str]:
    final, privacy = result["final"], result.get("privacy") or {}
    if final["epsilon"] is None:
        return "Epsilon", "none", "no differential privacy"
    budget = f"of {number(privacy['epsilon'])}, " if "epsilon" in privacy else ""
    return "Epsilon", f"{final['epsilon']:.2f}", f"{budget}delta {number(final['delta'])}"


def promises(result: Mapping[str, Any]) -> str:
    """What holds of this run, and what does not."""
    rows = [_same_model(result), *_privacy(result), *_aggregation(result), *_failed(result)]
    items = (f'<li class="{kind}"><strong>{title}</strong> {text}</li>' for kind, title, text in rows)
    return f'<section class="promises" aria-label="Promises">\n<ul>\n{chr(10).join(items)}\n</ul>\n</section>'


def _same_model(result: Mapping[str, Any]) -> tuple[str, str, str]:
    final = result["final"]
    difference = final["max_abs_logit_difference"]
    if _quantized_afterwards(result):
        accuracies = f"{percent(final['accuracy_int8'])} against {percent(final['accuracy_float'])}"
        text = f"Devices trained in float32; the int8 model is another function: {accuracies}."
        return "warn", "Quantized after training.", text
    if difference == 0:
        return (
            "good",
            "What was trained is what runs.",
            "The exported int8 model gives the trained model's logits bit for bit.",
        )
    return (
        "warn",
        "The exported model is not exactly the trained one.",
        f"Logits differ by up to {difference:.2g}; {percent(final['agreement'])} of answers agree.",
    )


def _quantized_afterwards(result: Mapping[str, Any]) -> bool:
    quantization = (result.get("config") or {}).get("quantization") or {}
    return quantization.get("training") == "float"


def _privacy(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    final, privacy = result["final"], result.get("privacy") or {}
    if final["epsilon"] is None:
        what = "The sums" if _summed(result) else "What a device sent"
        return [("bad", "No differential privacy.", f"{what} can tell about the examples of a device.")]
    how = (
        f"{promise.spent(result)} at most, recorded in the device's ledger before each step; "
        f"{promise.foundation(privacy)}."
    )
    kind = "warn" if privacy.get("mode") == "central" else "good"
    rows = [(kind, f"Differential privacy of each {promise.whom(privacy)}.", escape(how[0].upper() + how[1:]))]
    if privacy.get("noise"):
        rows.append(("warn", "Simulated noise.", f"Noise was {escape(privacy['noise'])}."))
    return rows


def _summed(result: Mapping[str, Any]) -> bool:
    return bool((result.get("secure_aggregation") or {}).get("enabled"))


def _aggregation(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if not _summed(result):
        seen = "The coordinator of this run saw each device's update by itself."
        return [("bad", "No secure aggregation.", seen)]
    found = result["secure_aggregation"]
    smallest, reported = found.get("smallest_sum"), "" if _private(result) else ", count or loss"
    seen = f"No device's update{reported} left it but under a mask"
    seen += "." if smallest is None else f"; only sums over {escape(smallest)} or more devices were unmasked."
    rows = [("good", "What was summed is all that was seen.", seen)]
    if found.get("keys"):
        rows.append(("warn", "Simulated identities.", f"The devices' keys are {escape(found['keys'])}."))
    return rows


def _private(result: Mapping[str, Any]) -> bool:
    return result["final"]["epsilon"] is not None


def _failed(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    failed = [row for row in result["rounds"] if row.get("failed")]
    if not failed:
        return []
    count = f"{len(failed)} of {len(result['rounds'])} rounds"
    return [
        ("warn", f"{count} failed.", f"They left the model as it was. The last one: {escape(failed[-1]['failed'])}.")
    ]


def details(result: Mapping[str, Any]) -> str:
    """Everything as tables, folded."""
    parts = [_fold("All rounds", _rounds(result["rounds"]))]
    if result.get("devices"):
        parts.append(_fold("All devices", _devices(result["devices"], result["classes"])))
    if result.get("failures"):
        rows = [(row["round"], row["device"], row["reason"]) for row in result["failures"]]
        parts.append(_fold("All failures", table(("round", "device", "reason"), rows)))
    if held := secure.sessions(result):
        parts.append(_fold("All sessions of secure aggregation", held))
    if result.get("config"):
        parts.append(_fold("Configuration", _configuration(result["config"])))
    if result.get("versions"):
        parts.append(_fold("Versions", table(("package", "version"), result["versions"].items())))
    return f'<section class="details" aria-label="Details">\n{chr(10).join(parts)}\n</section>'


def footer(result: Mapping[str, Any]) -> str:
    """Which model this page is about."""
    final = result["final"]
    return f"<footer><p>{escape(final['model'])}, SHA-256 <code>{escape(final['sha256'])}</code></p></footer>"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    headings = ("round", "devices", "accuracy int8", "loss", "epsilon", "up a device", "down a device", "time")
    failed = any(row.get("failed") for row in rounds)
    rows = [
        (
            row["round"],
            f"{row['survivors']} of {row['clients']}",
            percent(row["accuracy_int8"]),
            "-" if row["loss"] is None else f"{row['loss']:.3f}",
            "-" if row["epsilon"] is None else f"{row['epsilon']:.2f}",
            size(row["bytes_up"]),
            size(row["bytes_down"]),
            seconds(row["seconds"]),
            *([row.get("failed") or ""] if failed else []),
        )
        for row in rounds
    ]
    return table((*headings, *(["failed"] if failed else [])), rows)


def _devices(devices: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    rows = [
        (
            row["device"],
            row["examples"],
            percent(row["accuracy_int8"]),
            "-" if row["epsilon"] is None else f"{row['epsilon']:.2f}",
            *row["labels"],
        )
        for row in devices
    ]
    return table(("device", "examples", "accuracy int8", "epsilon", *(f"“{name}”" for name in classes)), rows)


def _configuration(config: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = {"scenario": plain, **{key: value for key, value in config.items() if isinstance(value, Mapping)}}
    return '<div class="config">' + "".join(_settings(name, keys) for name, keys in tables.items() if keys) + "</div>"


def _settings(name: str, keys: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{_setting(value)}</dd>" for key, value in keys.items())
    return f"<div><h3>{escape(name)}</h3><dl>{rows}</dl></div>"


def _setting(value: Any) -> str:
    if value is None or value == {}:
        return '<span class="unset">not set</span>'
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key} = {item}" for key, item in value.items()))
    return escape(number(value) if isinstance(value, float) else value)


def _fold(title: str, content: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n{content}\n</details>"
