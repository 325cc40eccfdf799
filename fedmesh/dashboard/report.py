"""report.html: one run on one page, from result.json alone.

Guarantees: the file stands alone (its policy forbids any load from a network), all text from the result is escaped, and
the same result gives the same bytes.
"""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fedmesh.dashboard import figures, sections, secure
from fedmesh.dashboard.text import escape
from fedmesh.errors import ConfigError
from fedmesh.files import write_atomically

__all__ = ["render", "write_report"]

_UNIT = re.compile(r"(?<=\d) (?=(?:B|kB|MB|GB|s|ms|µs|min)\b)")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Writes the page about `result`, the content of a result.json, to `path`.

    Raises:
        ConfigError: `result` is not that, matplotlib is not installed, or `path` cannot be written.
    """
    write_atomically(path, render(result).encode())


def render(result: Mapping[str, Any]) -> str:
    """The page as HTML.

    Raises:
        ConfigError: `result` is not the content of a result.json, or matplotlib is not installed.
    """
    try:
        body = "\n".join(
            [
                sections.header(result),
                sections.tiles(result),
                sections.promises(result),
                secure.section(result),
                figures.gallery(result),
                sections.details(result),
                sections.footer(result),
            ]
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"this is not the content of a result.json: {type(error).__name__} {error}") from error
    style = resources.files("fedmesh.dashboard").joinpath("report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(result["scenario"])}: fedmesh run report</title>
<style>
{style}</style>
</head>
<body>
<main>
{_UNIT.sub(chr(0xA0), body)}
</main>
</body>
</html>
"""
