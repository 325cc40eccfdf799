"""``--log-format`` and ``--log-level`` of the commands that keep running."""

from typing import Annotated, Literal

import typer

__all__ = ["LogFormat", "LogLevel", "ProgressOrLogFormat", "start_logging"]

LogFormat = Annotated[Literal["text", "json"], typer.Option("--log-format", help="How log lines look.")]
ProgressOrLogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option("--log-format", help="Write log lines of this kind, in place of showing progress."),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="Nothing below it is logged.")
]


def start_logging(log_format: Literal["text", "json"], log_level: str) -> None:
    """Lets this process log on stderr."""
    from fedmesh.observability.logs import start_logging as start

    start(log_format, log_level)
