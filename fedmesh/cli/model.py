"""``fedmesh model``: what is published, what runs on a device, whether it may, and the way back.

The same words for both sides: a folder is a repository's or a device's, and is told apart by what is in it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.cli import model_view
from fedmesh.cli.model_publishing import publishing
from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError, FedMeshError

if TYPE_CHECKING:
    from fedmesh.registry.repository import Repository
    from fedmesh.registry.slots import Slots

__all__ = ["model"]

model = typer.Typer(no_args_is_help=True, help="Signed models: publish, verify, pin, roll back.")
publishing(model)

FolderOption = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", envvar="FEDMESH_MODELS", help="A device's folder of models, or a repository."),
]
VersionArgument = Annotated[int, typer.Argument(min=1, metavar="VERSION", help="Its number.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_FOLDER = Path("models")


@model.command("list")
def list_(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", envvar="FEDMESH_MODELS", help="A device's folder, or a repository.")
    ] = _FOLDER,
    as_json: JsonOption = False,
) -> None:
    """List the versions of a repository, or those in a device's slots."""
    described = _described(folder)
    if as_json:
        print_json(described)
    else:
        model_view.print_list(described)


@model.command("show")
def show(version: VersionArgument, folder: FolderOption = _FOLDER, as_json: JsonOption = False) -> None:
    """Show a version: its files, where it comes from, what it cost."""
    described = _described(folder)
    found = next((item for item in described["versions"] if item["version"] == version), None)
    if found is None:
        known = ", ".join(str(item["version"]) for item in described["versions"]) or "none"
        raise ConfigError(f"there is no version {version} in {folder}: there are {known}")
    if as_json:
        print_json(found)
    else:
        model_view.print_one(found)


@model.command("verify")
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A device's folder, one of its slots, or a model there.")
    ],
    root: Annotated[
        Path | None, typer.Option(metavar="ROOT.json", help="The trusted root; none: that of the device's folder.")
    ] = None,
) -> None:
    """Check that a model is what its signers allowed: signatures, manifest, SHA-256. Exits with 0 or 1.

    Says nothing of whether a newer version is out: only a device that looks knows.
    """
    from fedmesh.registry.proof import MODEL, verify_folder
    from fedmesh.registry.roots import read_root, trusted_root_path

    try:
        if not path.exists():
            raise ConfigError(f"there is nothing at {path}")
        place, name = (path.parent, path.name) if path.is_file() else (_slot_of(path), MODEL)
        trusted = root or trusted_root_path(place.resolve().parent.parent)
        found = verify_folder(place, read_root(trusted), model=name)
    except FedMeshError as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{place / name} is version {found.version}, as its signers allowed.")


@model.command("pin")
def pin(version: VersionArgument, folder: FolderOption = _FOLDER) -> None:
    """Keep a device on VERSION, whatever is rolled out. If another runs, it changes when the device looks next."""
    from fedmesh.registry import controls

    state = controls.pin(_slots(folder), version)
    now = (
        "it runs" if state.running.version == version else f"version {state.running.version or 'none'} runs until then"
    )
    typer.echo(f"{folder} stays on version {version}; {now}.")


@model.command("unpin")
def unpin(folder: FolderOption = _FOLDER) -> None:
    """Let a device follow what is rolled out again."""
    from fedmesh.registry import controls

    controls.unpin(_slots(folder))
    typer.echo(f"{folder} follows what is rolled out.")


@model.command("rollback")
def rollback(
    version: Annotated[
        int | None, typer.Argument(min=1, metavar="[VERSION]", help="Of a repository: which; none: the one before.")
    ] = None,
    folder: FolderOption = _FOLDER,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for who reads it later.")] = "by the operator",
) -> None:
    """Go back: a device to the version in its other slot; a fleet, from its repository, to any that is still there.

    A fleet goes back by a higher version that names the old file, and a device does not try again what it left.
    """
    from fedmesh.registry import controls

    if _is_repository(folder):
        repository = _repository(folder)
        published = [item.number for item in repository.versions() if not item.missing]
        if version is None and len(published) < 2:
            raise ConfigError(f"{len(published)} versions are published in {folder}: there is none to go back to")
        made = repository.restore(published[-2] if version is None else version)
        typer.echo(model_view.published_text(made, folder))
        return
    slots = _slots(folder)
    if version is not None and slots.state[slots.state.spare].version != version:
        raise ConfigError(f"version {version} is not in the other slot of {folder}: pin it, and it is fetched again")
    state = controls.roll_back(slots, reason)
    typer.echo(f"{folder} runs version {state.running.version}.")


@model.command("trust")
def trust(
    root: Annotated[Path, typer.Argument(metavar="ROOT.json", help="From the operator of the repository.")],
    folder: FolderOption = _FOLDER,
    sha256: Annotated[str, typer.Option(metavar="HEX", help="What its SHA-256 must be, as the operator says.")] = "",
) -> None:
    """Make ROOT.json what a device believes: all else follows from it. It is never taken from the network."""
    from fedmesh.registry.roots import read_root, trust_root

    found = trust_root(folder, read_root(root), sha256=sha256)
    typer.echo(f"{folder} trusts the root with the SHA-256 {found}.")


def _is_repository(folder: Path) -> bool:
    return (folder / "public" / "metadata").is_dir()


def _repository(folder: Path) -> "Repository":
    from fedmesh.registry.repository import Repository

    return Repository.open(folder)


def _slots(folder: Path) -> "Slots":
    from fedmesh.registry.slots import Slots

    if _is_repository(folder):
        raise ConfigError(f"{folder} is a repository: this is for a device's folder, named with --dir")
    if not Slots.is_one(folder / "slots"):
        raise ConfigError(f"no model was installed into {folder} yet: name a device's folder with --dir")
    return Slots(folder / "slots")


def _described(folder: Path) -> dict[str, "model_view.Json"]:
    if _is_repository(folder):
        return model_view.of_repository(_repository(folder))
    return model_view.of_device(_slots(folder), folder)


def _slot_of(path: Path) -> Path:
    """The slot that `path` is, or whose model runs in the device's folder that it is."""
    from fedmesh.registry.slots import Slots

    if not Slots.is_one(path / "slots"):
        return path
    state = Slots(path / "slots").state
    if not state.active:
        raise ConfigError(f"nothing runs in {path}")
    return path / "slots" / state.active
