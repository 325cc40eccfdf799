"""What every ``--json`` prints."""

import json
import sys
from typing import Any

__all__ = ["json_text", "print_json"]


def json_text(content: Any) -> str:
    """`content` as indented JSON. Raises: ValueError: a number in it is not finite, for which JSON has no word."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def print_json(content: Any) -> None:
    """Prints `content` on stdout, and nothing else. Raises: ValueError: as `json_text`."""
    sys.stdout.write(json_text(content))
