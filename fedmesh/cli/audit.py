"""``fedmesh privacy audit``: whether a scenario's mechanism keeps what it promises, as far as measuring can tell."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.laboratory import Assignments, Data, Json, Out, Quiet, ScenarioName, Seed, laboratory, write
from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmesh.simulation.laboratory.auditing import Audited
    from fedmesh.simulation.laboratory.noise_law import LawReport
    from fedmesh.simulation.laboratory.subject import Subject

__all__ = ["HELP", "command"]

HELP = (
    "Audit the privacy of a scenario's own mechanism.\n\n"
    "Canaries are put into a run or not, by a coin each, and looked for in what comes out; how well that works is a "
    "lower bound on epsilon. Zero inputs go through the mechanism, too, and what comes out is compared with the law of "
    "its noise. Exit code 1 if either contradicts what the ledgers promise."
)
EXIT_VIOLATED = 1


def command(
    scenario: ScenarioName,
    *,
    canaries: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Canaries; by default as many as half a minute allows.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Rounds to audit, and to claim; by default all.")
    ] = None,
    confidence: Annotated[float, typer.Option(metavar="P", help="Of the lower bounds.")] = 0.95,
    samples: Annotated[int, typer.Option(min=1000, metavar="N", help="Values of noise to look at.")] = 1 << 20,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="NAME",
            help="Also a mechanism broken on purpose, to see it found: half-noise, quarter-noise, no-clip or "
            "counted-twice; can be repeated.",
        ),
    ] = None,
    seed: Seed = None,
    assignments: Assignments = None,
    data: Data = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Audit the privacy of a scenario's own mechanism."""
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence is {confidence:g}, it must be between 0 and 1, e.g. 0.95")
    with laboratory(scenario, seed, assignments, data, out, quiet=quiet or as_json) as (subject, events):
        from fedmesh.events import StepDone
        from fedmesh.simulation.laboratory import auditing, pictures, silence
        from fedmesh.simulation.laboratory.broken import fault_named
        from fedmesh.simulation.laboratory.timing import Stopwatch

        auditing.mode_of(subject.task)  # a scenario without a promise is refused before anything takes time
        broken = tuple(fault_named(name) for name in faults or [])
        watch = Stopwatch()
        reports = silence.check_noise(subject.task, subject.weights, samples=samples)
        events(StepDone("law of the noise", watch.lap()))
        audited = auditing.audit(
            subject, canaries=canaries, rounds=rounds, faults=broken, confidence=confidence, events=events
        )
        content = _content(subject, audited, reports, rounds, confidence)
        if out is not None:
            write(out, "audit.json", content)
            runs = [(each.finding.run, each.scores, each.included) for each in audited]
            pictures.draw_scores(out / "audit.png", runs)
    if as_json:
        print_json(content)
    else:
        from fedmesh.cli.laboratory_summary import print_audit

        print_audit(content, [each.finding for each in audited], reports, out)
    if not content["passed"]:
        raise typer.Exit(EXIT_VIOLATED)


def _content(
    subject: "Subject",
    audited: "Sequence[Audited]",
    reports: "Sequence[LawReport]",
    rounds: int | None,
    confidence: float,
) -> dict[str, Any]:
    """What --json prints."""
    from fedmesh.federation.outcome import without_nan
    from fedmesh.simulation.laboratory.auditing import mode_of

    sound = audited[0].finding
    budget = subject.task.budget
    assert budget is not None
    content = {
        "scenario": subject.scenario.name,
        "seed": subject.scenario.seed,
        "mode": mode_of(subject.task),
        "level": budget.level,
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        "rounds": subject.scenario.rounds if rounds is None else rounds,
        "confidence": confidence,
        "runs": [asdict(each.finding) for each in audited],
        "noise": [
            {"of": r.of, "law": asdict(r.law), "samples": r.samples, "probability": r.probability, "holds": r.holds,
             "checks": [asdict(check) for check in r.checks]}
            for r in reports
        ],
        "passed": not sound.violations and all(report.holds for report in reports),
    }  # fmt: skip
    plain: dict[str, Any] = without_nan(json.loads(json.dumps(content)))
    return plain
