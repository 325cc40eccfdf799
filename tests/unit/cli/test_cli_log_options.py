"""``--log-format`` and ``--log-level`` on a command that has them."""

import json
import logging
import subprocess
import sys

SCRIPT = """
import logging, typer
from fedmesh.cli.log_options import LogFormat, LogLevel, start_logging
app = typer.Typer()
@app.command()
def run(log_format: LogFormat = "text", log_level: LogLevel = "info"):
    start_logging(log_format, log_level)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("fedmesh.run").log(level, "turned", extra={"fields": {"level_of_it": level}})
app()
"""


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_lines_for_programs():
    done = ran("--log-format", "json", "--log-level", "debug")
    assert done.stdout == ""
    assert [json.loads(line)["fields"]["level_of_it"] for line in done.stderr.splitlines()] == [10, 20, 30]


def test_lines_for_people():
    done = ran()
    assert [line.split()[1:] for line in done.stderr.splitlines()] == [
        ["info", "turned", f"level_of_it={logging.INFO}"],
        ["warning", "turned", f"level_of_it={logging.WARNING}"],
    ]


def test_another_format_is_refused():
    done = ran("--log-format", "xml")
    assert done.returncode == 2
    assert "xml" in done.stderr
