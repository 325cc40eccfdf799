"""Events in a file that another process writes (``--json-events``)."""

import json
from pathlib import Path
from typing import Any


def told_in(path: Path) -> list[dict[str, Any]]:
    """Those that are there whole: the last line may be under way, or was when its writer was killed."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
