"""The repository's side of ``fedmesh model``: init, key, publish, sign, rollout, refresh, signers."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.cli import model_view
from fedmesh.cli.simulate import DATA_HELP

if TYPE_CHECKING:
    from fedmesh.inference import Engine
    from fedmesh.registry import GoldenSet

__all__ = ["publishing"]

RepositoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The repository.")]
RepositoryOption = Annotated[
    Path, typer.Option("--dir", metavar="DIR", envvar="FEDMESH_MODELS", help="The repository.")
]
SignerOption = Annotated[
    list[Path] | None, typer.Option("--signer", metavar="FILE.pub", help="Who signs versions; may be repeated.")
]
_FOLDER = Path("models")


def publishing(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    for command in (init, key, publish, sign, rollout, refresh, signers):
        app.command(command.__name__)(command)


def init(
    folder: RepositoryArgument,
    signer: SignerOption = None,
    threshold: Annotated[int, typer.Option(min=1, metavar="N", help="How many of the signers have to sign.")] = 1,
) -> None:
    """Make a repository in a new folder. Without --signer, its only signer is a key that is made there."""
    from fedmesh.registry.founding import ROOT_KEY, create
    from fedmesh.registry.signing import read_public_key

    made = create(folder, signers=[read_public_key(path) for path in signer or ()], threshold=threshold)
    root = folder / "public" / "metadata" / "1.root.json"
    typer.echo(
        f"The repository is in {folder}. Devices trust {root}: carry it there, and run fedmesh model trust.\n"
        f"Its SHA-256 is {hashlib.sha256(made.root_bytes()).hexdigest()}.\n"
        f"Now move {folder / 'keys' / ROOT_KEY} to a medium of its own, and a copy to another: it is needed only to "
        "replace signers, and whoever has it has the fleet's models."
    )


def key(path: Annotated[Path, typer.Argument(metavar="FILE.key", help="Where it goes; FILE.pub beside it.")]) -> None:
    """Make the key of a signer of versions, on the machine where it is to stay."""
    from fedmesh.errors import ConfigError
    from fedmesh.registry.signing import create_key

    if path.suffix != ".key":
        raise ConfigError(f"{path} does not end in .key: its public half goes beside it, in a .pub")
    create_key(path)
    typer.echo(f"The key is {path}, to be kept; {path.with_suffix('.pub')} is for fedmesh model init --signer.")


def publish(  # noqa: PLR0917 - the options of a command line
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.")],
    folder: RepositoryOption = _FOLDER,
    golden: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Its golden set: a .cbor, or public data to make one of.")
    ] = "",
    task: Annotated[str, typer.Option(metavar="NAME", help="What the run is called.")] = "",
    round_: Annotated[int | None, typer.Option("--round", min=0, metavar="N", help="The round it comes from.")] = None,
    survivors: Annotated[int | None, typer.Option(min=0, metavar="N", help="How many devices are in it.")] = None,
    epsilon: Annotated[float | None, typer.Option(min=0, metavar="E", help="The most any device has spent.")] = None,
    scenario: Annotated[Path | None, typer.Option(metavar="FILE", help="Its scenario, whose SHA-256 is named.")] = None,
    percent: Annotated[float, typer.Option(min=0, max=100, metavar="P", help="Of the devices, to begin with.")] = 100.0,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)
    ] = None,
) -> None:
    """Publish MODEL as the next version, signed with the keys that are here."""
    from fedmesh.files import read_bounded
    from fedmesh.inference import Engine
    from fedmesh.registry.describing import Facts
    from fedmesh.registry.manifest import Schema
    from fedmesh.registry.repository import Repository
    from fedmesh.registry.rollout import Rollout

    repository, engine = Repository.open(folder), Engine(path)
    facts = Facts(
        task=task,
        round=round_,
        survivors=survivors,
        epsilon=epsilon,
        scenario=None if scenario is None else hashlib.sha256(read_bounded(scenario, 1 << 20)).digest(),
        inputs=(Schema("float32", engine.input_shape),),
        outputs=(Schema("float32", (engine.input_shape[0], engine.classes)),),
    )
    made = repository.publish(
        path, facts, golden=_golden(golden, engine, data_dir) if golden else None, rollout=Rollout(1, percent)
    )
    typer.echo(model_view.published_text(made, folder))


def sign(
    folder: RepositoryArgument,
    signing_key: Annotated[Path, typer.Option("--key", metavar="FILE.key", help="The key of a signer.")],
) -> None:
    """Add a signature to the version that waits for one; the last that is needed publishes it."""
    from fedmesh.registry.repository import Repository

    typer.echo(model_view.published_text(Repository.open(folder).add_signature(signing_key), folder))


def rollout(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="Its number.")],
    percent: Annotated[float, typer.Option(min=0, max=100, metavar="P", help="Of the devices; 0 halts it.")] = 100.0,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only devices that have it; repeatable.")] = None,
    folder: RepositoryOption = _FOLDER,
) -> None:
    """Say which version is to run, and on how many devices: those that were asked at 5 percent are asked at 25."""
    from fedmesh.registry.repository import Repository
    from fedmesh.registry.rollout import Rollout

    Repository.open(folder).roll_out(Rollout(version, percent, tags=tuple(tag or ())))
    typer.echo(f"Version {version} is to run on {percent:g} percent of the devices.")


def refresh(folder: RepositoryArgument) -> None:
    """Sign what is newest anew, where half of its life is over: to be run daily where no coordinator does."""
    from fedmesh.registry.repository import Repository

    done = Repository.open(folder).refresh()
    typer.echo("Signed anew." if done else "Nothing to do yet: less than half of its life is over.")


def signers(
    folder: RepositoryArgument,
    root_key: Annotated[list[Path], typer.Option(metavar="FILE.key", help="The key of root, from where it is kept.")],
    signer: SignerOption = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many have to sign from now on.")
    ] = None,
    online: Annotated[bool, typer.Option("--online", help="Replace the coordinator's key as well.")] = False,
) -> None:
    """Replace those who sign versions, or renew the root: when a key may be in other hands, or the root expires."""
    from fedmesh.registry.founding import replace_signers
    from fedmesh.registry.signing import read_public_key

    public = [read_public_key(path) for path in signer or ()]
    version = replace_signers(folder, root_key, targets=public, threshold=threshold, online=online)
    typer.echo(f"Root {version} is in force. Take the root's key away again.")


def _golden(named: str, engine: "Engine", data_dir: Path | None) -> "GoldenSet":
    from fedmesh.cli.held_out import held_out
    from fedmesh.inference.probe import golden_set
    from fedmesh.registry import GoldenSet

    if named.endswith(".cbor"):
        return GoldenSet.load(Path(named))
    examples, _ = held_out(named, engine.path, data_dir)
    return golden_set(engine, examples.x)
