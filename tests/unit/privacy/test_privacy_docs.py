import re
from pathlib import Path

import pytest

from fedmesh.privacy import FileLedger, epsilon
from fedmesh.privacy.accountant import sampled_gaussian
from fedmesh.types import PrivacyEvent

DOCS = Path(__file__).parents[3] / "docs"


def example_of(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def run(page: str) -> None:
    exec(compile(example_of(page), page, "exec"), {})


def test_the_example_of_the_page_on_privacy_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("privacy.md")
    assert re.fullmatch(r"epsilon 7\.\d\d of 8\.0 at delta 1e-05\n", capsys.readouterr().out)
    assert (tmp_path / "device.ledger").exists()


def test_the_example_of_the_page_on_ledgers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("ledger.md")
    assert capsys.readouterr().out == "epsilon 0.16 of 3 for digits, 0.16 of 8 in all\n"


def test_the_lines_on_the_page_on_ledgers_are_what_is_written(tmp_path: Path) -> None:
    step = sampled_gaussian(0.25, 2.0, 4, "digits/round-0")
    with FileLedger(tmp_path / "l", epsilon=8.0, delta=1e-5) as ledger:
        ledger.for_task("digits", epsilon=4.0, delta=1e-6).charge(step)
        ledger.settle(2, PrivacyEvent(step.mechanism, {**step.parameters, "noise_multiplier": 2.5}, step.count))
    page = (DOCS / "ledger.md").read_text(encoding="utf-8")
    for line in (tmp_path / "l").read_text(encoding="utf-8").splitlines():
        assert f"\n{line[:8]}… {line[65:]}\n" in page


def test_the_figures_on_the_page_on_privacy_are_the_accountants() -> None:
    page = (DOCS / "privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+), ([\d.]+), (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for rate, multiplier, steps, by_rdp, by_pld in rows:
        events = [sampled_gaussian(float(rate), float(multiplier), int(steps))]
        assert f"{epsilon(events, 1e-5, 'rdp'):.3f}" == by_rdp
        assert f"{epsilon(events, 1e-5):.3f}" == by_pld
