"""``fedmesh privacy attack``: what a scenario's pipeline would leak without defences, and what is left with them."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from fedmesh.cli.laboratory import Assignments, Data, Json, Out, Quiet, ScenarioName, Seed, laboratory, write
from fedmesh.cli.printing import print_json

__all__ = ["attack"]

attack = typer.Typer(no_args_is_help=True, help="Show what a pipeline without defences leaks, and that it stops.")


@attack.command("membership")
def membership(
    scenario: ScenarioName,
    *,
    examples: Annotated[int, typer.Option(min=2, metavar="N", help="Training examples of the device.")] = 32,
    models: Annotated[int, typer.Option(min=4, metavar="N", help="Updates attacked; each is a shadow model too.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Local epochs of the undefended device.")] = 20,
    seed: Seed = None,
    assignments: Assignments = None,
    data: Data = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell from a device's first update what it was trained on.

    By the drop of an example's loss, and by likelihood ratio (LiRA) with shadow models; in the clear, in a secure sum
    without noise, and with the scenario's own privacy.
    """
    with laboratory(scenario, seed, assignments, data, out, quiet=quiet or as_json) as (subject, events):
        from fedmesh.simulation.laboratory import attacks, pictures

        found = attacks.infer_membership(subject, examples=examples, models=models, local_epochs=epochs, events=events)
        content: dict[str, Any] = {
            "scenario": subject.scenario.name, "seed": subject.scenario.seed, "examples": examples, "models": models,
            "local_epochs": epochs, "pipelines": [asdict(one) for one in found],
        }  # fmt: skip
        if out is not None:
            write(out, "membership.json", content)
            rows = [
                (one.pipeline, [(name, s.area, s.area_low, s.area_high) for name, s in
                                (("loss threshold", one.loss), ("likelihood ratio", one.ratio))])
                for one in found
            ]  # fmt: skip
            pictures.draw_areas(out / "membership.png", rows)
    if as_json:
        print_json(content)
    else:
        from fedmesh.cli.laboratory_summary import print_membership

        print_membership(found, content, out)


@attack.command("inversion")
def inversion(
    scenario: ScenarioName,
    *,
    images: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Images to reconstruct.")] = 8,
    batch: Annotated[int, typer.Option(min=1, max=16, metavar="N", help="Examples behind an update.")] = 1,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps of the search.")] = 300,
    seed: Seed = None,
    assignments: Assignments = None,
    data: Data = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a device's images from its update.

    Of one step in the clear, in a secure sum without noise, and with the scenario's own privacy.
    """
    with laboratory(scenario, seed, assignments, data, out, quiet=quiet or as_json) as (subject, events):
        from fedmesh.simulation.laboratory import attacks, pictures

        found = attacks.invert_gradients(subject, images=images, batch=batch, steps=steps, events=events)
        content: dict[str, Any] = {
            "scenario": subject.scenario.name, "seed": subject.scenario.seed, "images": images, "batch": batch,
            "pipelines": [{"pipeline": one.pipeline, **asdict(one.figures)} for one in found.reconstructions],
        }  # fmt: skip
        if out is not None:
            write(out, "inversion.json", content)
            rows = [("original", found.originals), *((one.pipeline, one.images) for one in found.reconstructions)]
            pictures.draw_images(out / "inversion.png", rows)
    if as_json:
        print_json(content)
    else:
        from fedmesh.cli.laboratory_summary import print_inversion

        print_inversion(found.reconstructions, content, out)
