"""The report's section about secure aggregation: who was in the sums, what came to nothing, what each step cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedmesh.dashboard import plots
from fedmesh.dashboard.text import counted, escape, percent, seconds, size, table

__all__ = ["section", "sessions"]

_DONE = {
    "hello": "its name",
    "advertise": "fresh keys, signed",
    "share": "shares of its secrets, sealed",
    "train": "its update, masked (and trains before)",
    "sign": "its signature under who is in the sum",
    "unmask": "shares that take the masks off the sum",
}
"""What a device sends at each step."""
_MOST = 8
"""So many reasons are told here, and rounds of each; the table of all sessions has the rest."""


def section(result: Mapping[str, Any]) -> str:
    """The section, or nothing for a run that knows of no secure aggregation."""
    secure = result.get("secure_aggregation") or {}
    if not secure.get("enabled"):
        return ""
    return f"""<section class="secure" aria-label="Secure aggregation">
<h2>What was summed is all that was seen</h2>
<p class="note">{_sentence(secure)}</p>
<div class="pair">
<figure>
<figcaption><h3>Devices in the sum</h3><p>{_survivors(result, secure)}</p></figcaption>
{plots.survivors(result["rounds"], _line(result, secure))}
</figure>
<figure>
<figcaption><h3>Where the time goes</h3><p>{_steps_sentence(result, secure)}</p></figcaption>
{plots.seconds_by_round(result["rounds"])}
</figure>
</div>
<h3>What came to nothing</h3>
<p class="note">{_aborted(result, secure)}</p>
{_aborts(secure)}
<h3>Bytes and seconds of each step</h3>
<p class="note">Measured: a device's messages at a step that it takes, one such step, and all of them.</p>
{_steps(secure)}
</section>"""


def sessions(result: Mapping[str, Any]) -> str:
    """Every session as a table, or nothing if there were none."""
    rows = [
        (
            row["round"],
            session["attempt"],
            session["group"],
            session["devices"],
            session["survivors"] or "-",
            session["aborted"] or "",
        )
        for row in result["rounds"]
        for session in row.get("sessions") or []
    ]
    return (
        table(("round", "attempt", "group", "devices", "in the sum", "came to nothing because"), rows) if rows else ""
    )


def _sentence(secure: Mapping[str, Any]) -> str:
    if not secure["sums"]:
        return "No sum was ever unmasked."
    grouped = f", {escape(_most_in_a_group(secure))} at most in a group" if _grouped(secure) else ""
    return (
        f"Devices sent their updates under masks that cancel in the sum{grouped}: "
        f"{escape(counted(secure['sums'], 'sum'))} unmasked, the smallest over {escape(secure['smallest_sum'])} "
        f"devices. In a session of {escape(secure['largest_session'])} it takes {escape(secure['threshold'])} to "
        f"unmask, and up to {escape(secure['colluders'])} who tell the coordinator all they know give away nobody "
        "else's update."
    )


def _survivors(result: Mapping[str, Any], secure: Mapping[str, Any]) -> str:
    good = [row["survivors"] for row in result["rounds"] if not row.get("failed")]
    if not good:
        return "Every round came to nothing."
    line = (
        ""
        if _line(result, secure) is None
        else f" The dashed line is how many of {escape(secure['largest_session'])} it takes."
    )
    many = f"{min(good)} in every round" if min(good) == max(good) else f"{min(good)} to {max(good)} in a round"
    return f"{many}; a device that is lost at any step leaves the right sum.{line}"


def _grouped(secure: Mapping[str, Any]) -> bool:
    return bool(secure.get("grouped"))


def _most_in_a_group(secure: Mapping[str, Any]) -> int:
    """The configured size, which a few devices too many for one group of it exceed."""
    return max(int(secure["group_size"]), int(secure["largest_session"]))


def _line(result: Mapping[str, Any], secure: Mapping[str, Any]) -> int | None:
    """How many devices a sum takes, where one number says it: to unmask it, and for the noise in it."""
    if _grouped(secure) or not secure["threshold"]:
        return None
    return max(int(secure["threshold"]), int((result.get("privacy") or {}).get("smallest_sum") or 0))


def _aborted(result: Mapping[str, Any], secure: Mapping[str, Any]) -> str:
    aborts, failed = secure["aborts"], sum(1 for row in result["rounds"] if row.get("failed"))
    if not aborts and not failed:
        return "Nothing: every session came to its sum."
    failures = (
        f"{failed} of {len(result['rounds'])} rounds failed and left"
        if failed
        else "No round failed, which would leave"
    )
    return (
        f"{len(aborts)} of {escape(secure['sessions'])} sessions were given up, and nothing of them was seen. "
        f"{failures} the model as it was."
    )


def _aborts(secure: Mapping[str, Any]) -> str:
    """Reasons, with the rounds that they cost something."""
    reasons: dict[str, list[int]] = {}
    for row in secure["aborts"]:
        reasons.setdefault(row["reason"], []).append(row["round"])
    if not reasons:
        return ""
    often = sorted(reasons.items(), key=lambda item: -len(item[1]))
    items = [f"<li><strong>{_rounds(numbers)}</strong> {escape(reason)}</li>" for reason, numbers in often[:_MOST]]
    if len(often) > _MOST:
        items.append(f"<li>and {len(often) - _MOST} more reasons, in the table of all sessions</li>")
    return f'<ul class="aborts">{"".join(items)}</ul>'


def _rounds(numbers: Sequence[int]) -> str:
    told = ", ".join(escape(number) for number in numbers[:_MOST]) + (" …" if len(numbers) > _MOST else "")
    return f"{'Round' if len(numbers) == 1 else 'Rounds'} {told}:"


def _steps_sentence(result: Mapping[str, Any], secure: Mapping[str, Any]) -> str:
    steps, total = secure["steps"], sum(row["seconds"] for row in result["rounds"])
    around = sum(step["seconds"] for step in steps if step["step"] != "train")
    sentence = f"All steps but the training itself took {seconds(around)} of {seconds(total)}."
    if secure.get("overlap"):
        sentence += (
            " The keys of the next round are exchanged on the way, if nobody is lost: such a round has three steps."
        )
    return sentence


def _steps(secure: Mapping[str, Any]) -> str:
    headings = (
        "step",
        "what a device sends",
        "asked",
        "answered",
        "up a device",
        "down a device",
        "time",
        "in all",
    )
    rows = [
        (
            step["step"],
            _DONE.get(step["step"], ""),
            step["devices"],
            f"{step['replies']} ({percent(step['replies'] / step['devices'])})" if step["devices"] else "-",
            size(step["bytes_up"] / step["replies"]) if step["replies"] else "-",
            size(step["bytes_down"] / step["devices"]) if step["devices"] else "-",
            _short(step["seconds"] / step["times"]),
            seconds(step["seconds"]),
        )
        for step in secure["steps"]
    ]
    return table(headings, rows)


def _short(duration: float) -> str:
    return f"{duration * 1000:.0f} ms" if duration < 1 else seconds(duration)
