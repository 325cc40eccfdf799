"""``fedmesh ledger show`` and ``verify``: what devices spent, read without holding or changing their ledgers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError, FedMeshError, LedgerError

if TYPE_CHECKING:
    from fedmesh.privacy.chain import Head
    from fedmesh.privacy.settings import Level
    from fedmesh.privacy.statement import Account, Row, Statement

__all__ = ["Finding", "ledger"]

ledger = typer.Typer(no_args_is_help=True, help="What devices spent of their privacy budgets.")

PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A ledger, or a folder of them: a run's, too.")]
AnchorOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What remembers where the ledger ended; in a run's folder it is found."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of reading a ledger.

    Attributes:
        path: its file; anchor: that of its device, or None where there is no identity.
        statement: what it says; None: it is damaged.
        damage: why there is no statement, or what is wrong with what it says; empty: nothing.
        rollback: why its end is not what the anchor remembers; empty: it is, or there is no anchor.
    """

    path: Path
    anchor: Path | None
    statement: "Statement | None"
    damage: str
    rollback: str

    @property
    def device(self) -> str:
        """What the file is called after."""
        return _device(self.path)

    @property
    def error(self) -> str:
        """What is wrong; empty: nothing."""
        return self.damage or self.rollback


@ledger.command("show")
def show(path: PathArgument, as_json: JsonOption = False) -> None:
    """Show a ledger's entries, what was spent and what is left; of a folder, a line for each ledger.

    Exits with 1 when one is too damaged to be shown; what else is wrong is for verify.
    """
    from fedmesh.cli import ledger_view

    found = [_read(file, _anchor_of(file)) for file in _files(path)]
    one = found[0] if path.is_file() else None
    if one is not None and one.statement is None:
        raise LedgerError(f"{one.path}: {one.damage}")
    if as_json:
        print_json({"ledgers": list(map(_described, found))} if one is None else _described(one))
    elif one is not None:
        ledger_view.print_one(one)
    else:
        ledger_view.print_all(found)
    raise typer.Exit(1 if any(item.statement is None for item in found) else 0)


@ledger.command("verify")
def verify(path: PathArgument, anchor: AnchorOption = None, as_json: JsonOption = False) -> None:
    """Check that a ledger is whole: each hash, each entry, the budgets and, where there is an anchor, its end.

    Exits with 1 when one is not.
    """
    from fedmesh.cli import ledger_view

    files = _files(path)
    if anchor is not None and not path.is_file():
        raise ConfigError("--anchor is one device's: name its ledger, not a folder")
    found = [_read(file, anchor or _anchor_of(file)) for file in files]
    if as_json:
        print_json({"ledgers": list(map(_verdict, found))})
    else:
        ledger_view.print_verdicts(found)
    raise typer.Exit(1 if any(item.error for item in found) else 0)


def _files(path: Path) -> list[Path]:
    """The ledgers that `path` stands for."""
    if path.is_file():
        return [path]
    folder = path / "ledgers" if (path / "ledgers").is_dir() else path
    if not folder.is_dir():
        raise ConfigError(f"{path} is not there: name a ledger, or a folder of ledgers")
    try:
        files = [file for file in folder.iterdir() if file.suffix == ".ledger" and file.is_file()]
    except OSError as error:
        raise ConfigError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    found = sorted(files, key=lambda file: (len(_device(file)), file.name))  # 2 before 10
    if not found:
        raise ConfigError(f"there are no ledgers in {folder}: name another folder, or a run under a privacy budget")
    return found


def _device(path: Path) -> str:
    return path.name.removesuffix(".ledger").removesuffix(".client")


def _anchor_of(path: Path) -> Path | None:
    """Where the device's anchor is in a run's folder, with ledgers and identities side by side; None: no identity."""
    identities = path.absolute().parent.parent / "identities"
    anchor = identities / f"{_device(path)}.anchor"
    return anchor if anchor.exists() or (identities / f"{_device(path)}.key").exists() else None


def _read(path: Path, anchor: Path | None) -> Finding:
    from fedmesh.privacy.anchor import Anchor
    from fedmesh.privacy.statement import Statement

    heads: dict[Level, Head] = {}
    damage = rollback = ""
    try:  # first: a charge in between leaves the ledger ahead
        heads = {} if anchor is None else Anchor(anchor).heads()
    except FedMeshError as error:
        rollback = str(error)
    try:
        statement = Statement(path)
    except FedMeshError as error:
        return Finding(path, anchor, None, str(error), rollback)
    try:
        statement.check_contains(heads.get(statement.opening.level))
    except LedgerError as error:
        rollback = str(error)
    try:
        statement.check_budgets()
    except LedgerError as error:
        damage = str(error)
    return Finding(path, anchor, statement, damage, rollback)


def _described(item: Finding) -> dict[str, Any]:
    statement = item.statement
    if statement is None:
        return {"path": str(item.path), "device": item.device, "error": item.error}
    opening, whole = statement.opening, statement.whole()
    return {
        "path": str(item.path),
        "device": item.device,
        "error": item.error or None,
        "format": opening.format,
        "level": opening.level,
        "budget": opening.epsilon,
        "epsilon": _finite(whole.reported),
        **_account(whole),
        "tasks": [
            {"task": task.name, "budget": task.budget, "epsilon": _finite(task.reported), **_account(task)}
            for task in statement.tasks()
        ],
        "head": {"entries": statement.entries, "digest": statement.digest},
        "anchor": None if item.anchor is None else str(item.anchor),
        "torn_bytes": statement.torn_bytes,
        "entries": [_entry(row) for row in statement.rows()],
    }


def _account(account: "Account") -> dict[str, Any]:
    names = ("charges", "delta", "rdp", "pld", "left")
    return {name: _finite(getattr(account, name)) for name in names}


def _finite(value: float | None) -> float | None:
    """JSON has no word for infinity, which noise far too small to promise anything is accounted at."""
    return value if value is None or math.isfinite(value) else None


def _entry(row: "Row") -> dict[str, Any]:
    from fedmesh.privacy.entries import entry_body

    return {**entry_body(row.entry, row.number), "spent": _finite(row.spent)}


def _verdict(item: Finding) -> dict[str, Any]:
    return {
        "path": str(item.path),
        "ok": not item.error,
        "error": item.error or None,
        "entries": item.statement.entries if item.statement else None,
        "anchor": None if item.anchor is None else str(item.anchor),
    }
