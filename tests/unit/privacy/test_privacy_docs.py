import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs" / "privacy.md"


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCS), "exec"), {})
    assert re.fullmatch(r"epsilon 7\.\d\d of 8\.0 at delta 1e-05\n", capsys.readouterr().out)
    assert (tmp_path / "device.ledger").exists()
