"""Findings of audits and attacks on stdout, as tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedmesh.dashboard.text import number

if TYPE_CHECKING:
    from fedmesh.simulation.laboratory.attacks import Reconstruction
    from fedmesh.simulation.laboratory.canaries import Finding, Interval
    from fedmesh.simulation.laboratory.membership import Membership
    from fedmesh.simulation.laboratory.noise_law import LawReport
    from fedmesh.simulation.laboratory.roc import Separation

__all__ = ["print_audit", "print_inversion", "print_membership"]

_WORDS = {
    "local": "noise on each device",
    "shared": "noise in the secure sum",
    "client": "noise in the secure sum",
    "central": "noise of a trusted server",
}


_LEGEND = (
    " promised: epsilon by the ledgers; at least: what the guesses refute;\n"
    " as Gaussian: of the effect and the noise that were measured, which are\n"
    " given as shares of the promise"
)


def print_audit(
    content: Mapping[str, Any], findings: "Sequence[Finding]", reports: "Sequence[LawReport]", out: Path | None
) -> None:
    """Prints what canaries and the noise's law came to."""
    console = Console(highlight=False)
    console.print()
    console.print(_noise_table(reports))
    console.print(_canary_table(content, findings))
    console.print(_LEGEND, style="dim")
    for finding in findings:
        for violation in finding.violations:
            console.print(f" [red]✗[/] {escape(finding.run)}: {escape(violation)}")
    for report in reports:
        for check in report.broken:
            console.print(f" [red]✗[/] noise: {escape(check.name)}: {escape(check.seen)}")
    if content["passed"]:
        console.print(" [green]✓[/] nothing that was measured contradicts the promise")
    _print_files(console, out, "audit.png", "audit.json")


def print_membership(found: "Sequence[Membership]", content: Mapping[str, Any], out: Path | None) -> None:
    """Prints how well members are told."""
    console = Console(highlight=False)
    title = (
        f" [bold]{escape(content['scenario'])}[/]: telling the {content['examples']} examples of a device from others, "
        f"{content['models']} updates; AUC 0.5 and TPR 1 % are guessing"
    )
    table = _table(title, "what the server sees", "AUC by loss", "AUC by LiRA", "TPR at 1 % FPR")
    for one in found:
        table.add_row(escape(one.pipeline), _area(one.loss), _area(one.ratio), _rare(one.ratio))
    console.print()
    console.print(table)
    _print_files(console, out, "membership.png", "membership.json")


def print_inversion(found: "Sequence[Reconstruction]", content: Mapping[str, Any], out: Path | None) -> None:
    """Prints how much reconstructions look like the originals."""
    console = Console(highlight=False)
    title = f" [bold]{escape(content['scenario'])}[/]: {content['images']} images from updates of one step"
    table = _table(title, "what the server sees", "MSE", "SSIM", "recognised")
    for one in found:
        figures = one.figures
        table.add_row(escape(one.pipeline), f"{figures.mse:.3f}", f"{figures.ssim:.2f}", f"{figures.recognised:.0%}")
    console.print()
    console.print(table)
    _print_files(console, out, "inversion.png", "inversion.json")


def _noise_table(reports: "Sequence[LawReport]") -> Table:
    table = _table(" Law of the noise, zero inputs", "check", "seen", "chance")
    for report in reports:
        law = report.law
        table.add_row(
            f"[bold]{report.of}[/]", f"{report.samples:,} values, {law.kind}, variance {law.variance:.6g}", ""
        )
        for check in report.checks:
            table.add_row(f"  {escape(check.name)}", escape(check.seen), _chance(check.probability))
        verdict = "[green]holds[/]" if report.holds else "[red]broken[/]"
        table.add_row(f"  all together: {verdict}", "", _chance(report.probability))
    return table


def _canary_table(content: Mapping[str, Any], findings: "Sequence[Finding]") -> Table:
    guesses = findings[0].guesses
    title = (
        f" [bold]{escape(content['scenario'])}[/], {_WORDS[content['mode']]}, {content['level']} level: "
        f"{guesses.canaries:,} canaries, {content['rounds']} rounds, delta {number(findings[0].delta)}"
    )
    headings = ("run", "promised", "at least", "guesses", "as Gaussian", "effect", "noise")
    table = _table(title, *headings)
    for finding in findings:
        mark = "[red]✗[/] " if finding.violations else ""
        table.add_row(
            f"{mark}{escape(finding.run)}",
            "-" if finding.epsilon is None else f"{finding.epsilon:.2f}",
            f"{finding.guesses.epsilon:.2f}",
            f"{finding.guesses.right}/{finding.guesses.guesses}",
            f"{finding.estimate:.2f}" if finding.estimate < 1000 else ">1000",
            _ratio(finding.effect),
            _ratio(finding.noise),
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1), collapse_padding=True)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index and heading != "seen" else "left", overflow="fold")
    return table


def _ratio(interval: "Interval") -> str:
    return f"{interval.value:.2f}" if interval.value >= 0.01 else f"{interval.value:.0e}"


def _chance(probability: float) -> str:
    return f"{probability:.2f}" if probability >= 0.01 else f"{probability:.0e}"


def _area(one: "Separation") -> str:
    return f"{one.area:.2f} ({one.area_low:.2f}-{one.area_high:.2f})"


def _rare(one: "Separation") -> str:
    return f"{one.true_positives:.0%} ({one.true_positives_low:.0%}-{one.true_positives_high:.0%})"


def _print_files(console: Console, out: Path | None, *names: str) -> None:
    console.print()
    for name in names:
        if out is not None and (out / name).is_file():
            console.print(f" {out / name}", markup=False, soft_wrap=True)  # a path is not broken: it is copied
