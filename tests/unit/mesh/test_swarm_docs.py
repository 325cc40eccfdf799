"""docs/mesh-delivery.md says what is so."""

import re
from pathlib import Path

import fedmesh.mesh.swarm

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "mesh-delivery.md").read_text("utf-8")


def test_every_reason_is_explained():
    folder = Path(fedmesh.mesh.swarm.__file__).parent
    code = "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
    reasons = set(re.findall(r'counts\["([a-z]+)"\]', code))
    reasons |= set(re.findall(r'(?:_ban|blame|_refuse)\([a-z_. ]*(?:, request)?, ?"([a-z]+)"', code))
    reasons |= {"stranger", "banned", "oversize", "file", "metadata", "pointer"}
    assert len(reasons) >= 20
    table = PAGE[PAGE.index("## What is refused") : PAGE.index("## What is not guaranteed")]
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in table] == []
