"""docs/security.md names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_every_test_that_is_named_is_there():
    rows = [line.split("|")[-2] for line in PAGE.splitlines() if line.startswith("| ") and "test_" in line]
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = {name.rpartition("/")[2] for row in rows for name in re.findall(r"`([\w/]*test_\w+)`", row)}
    assert len(rows) > 15
    assert named - there == set()
    short = {name for row in rows for name in re.findall(r"`(_\w+)`", row)}
    kinds = ("test_fleet_attacks", "test_privacy")
    assert {name for name in short if not any(f"{kind}{name}" in there for kind in kinds)} == set()
