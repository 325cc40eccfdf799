"""What ``fedmesh model`` prints: one description of a version for people and for ``--json``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmesh.registry import Manifest
    from fedmesh.registry.repository import Repository, Version
    from fedmesh.registry.slots import Slots

__all__ = ["Json", "of_device", "of_repository", "print_list", "print_one", "published_text"]

Json = Any


def of_repository(repository: "Repository") -> dict[str, Json]:
    """Its versions, newest last."""
    rollout = repository.rollout
    rows = []
    for item in repository.versions():
        state = f"lacks {item.missing} signatures" if item.missing else "published"
        if rollout is not None and rollout.version == item.number and not item.missing:
            state = f"rollout {rollout.percent:g} %"
        rows.append({**_of(item.manifest), "slot": None, "state": state})
    return {
        "kind": "repository",
        "folder": str(repository.folder),
        "pinned": None,
        "versions": rows,
        "expires": {role: _date(at) for role, at in repository.expiries().items()},
    }


def of_device(slots: "Slots", folder: Path) -> dict[str, Json]:
    """What is in its slots, and what failed."""
    from fedmesh.files import read_bounded
    from fedmesh.registry.limits import MANIFEST_BYTES
    from fedmesh.registry.manifest import Manifest
    from fedmesh.registry.proof import MANIFEST
    from fedmesh.registry.state import NAMES

    state, rows = slots.state, []
    for name in NAMES:
        if state[name].state == "empty":
            continue
        manifest = Manifest.decode(read_bounded(slots.path(name) / MANIFEST, MANIFEST_BYTES))
        running = name == state.active
        shown = ("runs, on trial" if state[name].state == "trying" else "runs") if running else state[name].state
        failure = state.failure(state[name].manifest)
        rows.append({**_of(manifest), "slot": name, "state": shown, "failed": failure and failure.reason})
    rows.sort(key=lambda row: row["version"])
    return {
        "kind": "device",
        "folder": str(folder),
        "pinned": state.pinned,
        "versions": rows,
        "failed": [{"version": item.version, "reason": item.reason} for item in state.failed],
    }


def published_text(version: "Version", folder: Path) -> str:
    """What came of publishing."""
    if version.missing:
        lacks = "one signature" if version.missing == 1 else f"{version.missing} signatures"
        return f"Version {version.number} lacks {lacks}: fedmesh model sign {folder} --key FILE.key"
    variant = version.manifest.variants[0]
    smallest = min((item.blob.length for item in variant.deltas), default=None)
    delta = "" if smallest is None else f", {_size(smallest)} as a delta"
    return f"Version {version.number} is published: {_size(variant.blob.length)}{delta}, SHA-256 {version.sha256[:16]}."


def print_list(described: dict[str, Json]) -> None:
    """As a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("version", "round", "epsilon", "slot", "state", "SHA-256", "published"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "state")
    for row in described["versions"]:
        table.add_row(
            str(row["version"]),
            _or_dash(row["round"]),
            _or_dash(row["epsilon"]),
            _or_dash(row["slot"]),
            row["state"],
            row["variants"][0]["sha256"][:12],
            row["created"][:10],
        )
    console.print(table if table.rows else "Nothing is here yet.", markup=False)
    if described["pinned"] is not None:
        console.print(f"pinned to version {described['pinned']}", markup=False)
    if expires := described.get("expires"):
        shown = ", ".join(f"{role} until {expires[role][:10]}" for role in ("root", "targets") if role in expires)
        console.print(f"to be signed again by their signers: {shown}", markup=False, soft_wrap=True)
    for item in described.get("failed", ()):
        console.print(f"version {item['version']} failed here: {item['reason']}", markup=False, soft_wrap=True)


def print_one(row: dict[str, Json]) -> None:
    """Line by line."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name in ("version", "state", "slot", "failed", "created", "task", "round", "survivors", "epsilon", "restores"):
        if row.get(name) not in {None, ""}:
            table.add_row(name, f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]))
    for name in ("parent", "scenario", "golden"):
        if row[name]:
            table.add_row(name, row[name])
    for name in ("inputs", "outputs"):
        for item in row[name]:
            table.add_row(name, f"{item['dtype']} {['any' if size is None else size for size in item['shape']]}")
    for item in row["variants"]:
        tags = f" for {'+'.join(item['tags'])}" if item["tags"] else ""
        table.add_row(item["kind"], f"{_size(item['bytes'])}{tags}, SHA-256 {item['sha256']}")
        for delta in item["deltas"]:
            table.add_row("", f"{_size(delta['bytes'])} against {delta['base'][:16]}")
    Console(highlight=False, markup=False).print(table)


def _of(manifest: "Manifest") -> dict[str, Json]:
    return {
        "version": manifest.version,
        "created": _date(manifest.created),
        "task": manifest.task,
        "round": manifest.round,
        "survivors": manifest.survivors,
        "epsilon": manifest.epsilon,
        "parent": manifest.parent and manifest.parent.hex(),
        "scenario": manifest.scenario and manifest.scenario.hex(),
        "golden": manifest.golden and manifest.golden[0].hex(),
        "restores": manifest.restores,
        "inputs": [{"dtype": item.dtype, "shape": list(item.shape)} for item in manifest.inputs],
        "outputs": [{"dtype": item.dtype, "shape": list(item.shape)} for item in manifest.outputs],
        "variants": [
            {
                "kind": item.kind,
                "tags": list(item.tags),
                "sha256": item.blob.sha256.hex(),
                "bytes": item.blob.length,
                "deltas": [{"base": d.base.hex(), "bytes": d.blob.length} for d in item.deltas],
            }
            for item in manifest.variants
        ],
    }


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _size(count: int) -> str:
    from fedmesh.dashboard.text import size

    return size(count)


def _or_dash(value: Json) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
