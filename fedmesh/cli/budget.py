"""``fedmesh privacy epsilon`` and ``fedmesh privacy noise``: what noise buys, and what a promise takes."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

__all__ = ["EPSILON_HELP", "NOISE_HELP", "epsilon", "noise"]

EPSILON_HELP = (
    "What a mechanism spends.\n\n"
    "skellam: noise shared by the devices of a secure sum (--clients, --dimension, --bits). gaussian: noise on a sum "
    "of clipped contributions. dpsgd: noise on every step's summed gradients (--sample-rate). The noise multiplier is "
    "the standard deviation of all noise in the sum, in units of the clip."
)
NOISE_HELP = (
    "The least noise with which a mechanism stays within a budget.\n\nOptions as for `fedmesh privacy epsilon`."
)


class Mechanism(StrEnum):
    """What the noise comes from."""

    SKELLAM = "skellam"
    GAUSSIAN = "gaussian"
    DPSGD = "dpsgd"


_NEEDS: Mapping[Mechanism, tuple[str, ...]] = {
    Mechanism.SKELLAM: ("clients", "dimension", "bits"),
    Mechanism.GAUSSIAN: (),
    Mechanism.DPSGD: ("sample_rate",),
}
_TAKES: Mapping[Mechanism, tuple[str, ...]] = {
    Mechanism.SKELLAM: ("survivors", "sample_rate"),
    Mechanism.GAUSSIAN: ("clients", "survivors", "sample_rate"),
    Mechanism.DPSGD: (),
}
_SAMPLED = (
    "the figure holds only if nobody but the sampled parties knows who was sampled; in a mesh the server and the "
    "neighbours see who takes part"
)

MechanismOption = Annotated[Mechanism, typer.Option(help="Where the noise comes from.")]
RoundsOption = Annotated[int, typer.Option(min=1, metavar="T", help="Rounds; of dpsgd, steps.")]
ClientsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Devices that share the noise.")]
DimensionOption = Annotated[int | None, typer.Option(min=1, metavar="D", help="Values of an update.")]
BitsOption = Annotated[int | None, typer.Option(min=1, max=62, metavar="K", help="Bits of the ring.")]
RateOption = Annotated[float | None, typer.Option(metavar="Q", help="Poisson sampling rate, if sampling is secret.")]
SurvivorsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Honest devices whose noise is in the sum; default: all.")
]
DeltaOption = Annotated[float, typer.Option(metavar="DELTA", help="The promise's delta.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def epsilon(
    *,
    mechanism: MechanismOption,
    noise_multiplier: Annotated[float, typer.Option(metavar="Z", help="Noise of all together, in clips.")],
    rounds: RoundsOption,
    clients: ClientsOption = None,
    dimension: DimensionOption = None,
    bits: BitsOption = None,
    sample_rate: RateOption = None,
    delta: DeltaOption = 1e-5,
    survivors: SurvivorsOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a mechanism spends."""
    options = {
        "clients": clients,
        "dimension": dimension,
        "bits": bits,
        "sample_rate": sample_rate,
        "survivors": survivors,
    }
    notes = _checked(mechanism, options)
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ConfigError(f"--noise-multiplier is {noise_multiplier}, it must be above 0")
    report = _spent(mechanism, noise_multiplier, rounds, delta, options)
    if math.isinf(report["epsilon"]):
        raise ConfigError(f"--noise-multiplier {noise_multiplier:g} promises nothing: no epsilon is large enough")
    _say({**report, **notes}, as_json=as_json)


def noise(
    *,
    mechanism: MechanismOption,
    epsilon: Annotated[float, typer.Option(metavar="E", help="The budget.")],
    rounds: RoundsOption,
    clients: ClientsOption = None,
    dimension: DimensionOption = None,
    bits: BitsOption = None,
    sample_rate: RateOption = None,
    delta: DeltaOption = 1e-5,
    survivors: SurvivorsOption = None,
    as_json: JsonOption = False,
) -> None:
    """The least noise multiplier with which a mechanism stays within a budget."""
    options = {
        "clients": clients,
        "dimension": dimension,
        "bits": bits,
        "sample_rate": sample_rate,
        "survivors": survivors,
    }
    notes = _checked(mechanism, options)
    multiplier = _multiplier(mechanism, epsilon, rounds, delta, options)
    report = _spent(mechanism, multiplier, rounds, delta, options)
    _say({"noise_multiplier": multiplier, **report, "budget": epsilon, **notes}, as_json=as_json)


def _checked(mechanism: Mechanism, options: dict[str, Any]) -> dict[str, list[str]]:
    """What is to be said about the options; those without a meaning are taken out."""
    needs = _NEEDS[mechanism]
    missing = [_flag(name) for name in needs if options[name] is None]
    if missing:
        wanted = ", ".join(map(_flag, needs))
        raise ConfigError(f"--mechanism {mechanism} needs {wanted}; missing: {', '.join(missing)}")
    ignored = [name for name, value in options.items() if value is not None and name not in needs + _TAKES[mechanism]]
    for name in ignored:
        options[name] = None
    clients, survivors, rate = options["clients"], options["survivors"], options["sample_rate"]
    if survivors is not None and (clients is None or survivors > clients):
        got = "no --clients" if clients is None else f"--clients {clients}"
        raise ConfigError(
            f"--survivors {survivors} came with {got}: say with --clients how many share the noise, at least as many"
        )
    if rate is not None and not 0 < rate <= 1:
        raise ConfigError(f"--sample-rate is {rate}, it must be above 0 and at most 1")
    sampled = rate is not None and rate < 1 and mechanism is not Mechanism.DPSGD
    return {
        "warnings": [f"--sample-rate: {_SAMPLED}"] if sampled else [],
        "ignored": [_flag(name) for name in ignored],
    }


def _spent(
    mechanism: Mechanism, multiplier: float, rounds: int, delta: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    from fedmesh.privacy import accountant, calibration, skellam

    rate = options["sample_rate"] or 1.0
    clients, survivors = options["clients"], options["survivors"]
    # The noise that is left is in proportion to the survivors.
    left = multiplier * math.sqrt(survivors / clients) if survivors else multiplier
    gaussian = accountant.sampled_gaussian(rate, left, rounds)
    head = {"mechanism": str(mechanism), "noise_multiplier": multiplier, "rounds": rounds, "delta": delta}
    by_rdp = accountant.epsilon([gaussian], delta, "rdp")
    if mechanism is not Mechanism.SKELLAM:
        spent = accountant.spent([gaussian], delta)
        by_pld = accountant.epsilon([gaussian], delta, "pld") if accountant.fits_pld([gaussian], delta) else None
        return {"epsilon": spent, **head, "sample_rate": rate, "rdp": by_rdp, "pld": by_pld}
    event, gamma = calibration.distributed_skellam(
        noise_multiplier=multiplier,
        clients=clients,
        dimension=options["dimension"],
        bits=options["bits"],
        rounds=rounds,
        survivors=survivors,
    )
    spent = calibration.sampled_epsilon(event, rate, delta)
    return {
        "epsilon": spent,
        **head,
        "sample_rate": rate,
        "rdp": spent,
        "pld": None,
        "continuous_gaussian": by_rdp,
        "clients": clients,
        "survivors": survivors or clients,
        "bits": options["bits"],
        "dimension": skellam.dimension(options["dimension"]),
        "gamma": gamma,
        **dict(event.parameters),
    }


def _multiplier(mechanism: Mechanism, budget: float, rounds: int, delta: float, options: Mapping[str, Any]) -> float:
    from fedmesh.privacy import calibration

    rate, clients, survivors = options["sample_rate"] or 1.0, options["clients"], options["survivors"]
    if mechanism is Mechanism.SKELLAM:
        honest = survivors or clients
        sized = calibration.skellam_noise_multiplier(
            epsilon=budget,
            delta=delta,
            rounds=rounds,
            clients=honest,
            members=clients,
            dimension=options["dimension"],
            bits=options["bits"],
            sample_rate=rate,
        )
        return sized * math.sqrt(clients / honest)
    sized = calibration.noise_multiplier(budget, delta, rate, rounds)
    return sized * math.sqrt(clients / survivors) if survivors else sized


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _say(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(report))
    for text in report["warnings"]:
        console.print(f"[yellow]note[/] {text}")
    if report["ignored"]:
        console.print(f"[dim]not used by {report['mechanism']}: {', '.join(report['ignored'])}[/]")


def _table(report: Mapping[str, Any]) -> Any:
    from rich.table import Table

    from fedmesh.dashboard.text import counted, number

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    found = f"[bold green]{report['epsilon']:.4g}[/] at delta {number(report['delta'])}"
    if "budget" in report:
        table.add_row("noise multiplier", f"[bold green]{report['noise_multiplier']:.5g}[/] clips, all noise together")
        table.add_row("epsilon", f"{found} of {number(report['budget'])}")
    else:
        table.add_row("epsilon", found)
        table.add_row("noise multiplier", f"{report['noise_multiplier']:.5g} clips, all noise together")
    by_pld = "" if report["pld"] is None else f", by PLD {report['pld']:.4g}"
    table.add_row("accountants", f"by RDP {report['rdp']:.4g}{by_pld}")
    sampled = f", each on a sample of {number(report['sample_rate'])}" if report["sample_rate"] < 1 else ""
    unit = "step" if report["mechanism"] == Mechanism.DPSGD else "round"
    table.add_row("mechanism", f"{report['mechanism']}, {counted(report['rounds'], unit)}{sampled}")
    if "gamma" in report:
        devices = f"{report['survivors']} of {report['clients']} devices' noise"
        table.add_row("sum", f"{devices}, {report['dimension']:,} values of {report['bits']} bits")
        table.add_row(
            "grid", f"gamma {report['gamma']:.4g} clips, noise of deviation {math.sqrt(report['variance']):.4g} units"
        )
        table.add_row("without the grid", f"epsilon {report['continuous_gaussian']:.4g}: a continuous Gaussian, by RDP")
    return table
