"""The report stands alone, escapes what it is told, draws every kind of run, and says what does not hold of one."""

import copy
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedmesh.dashboard import plots, write_report
from fedmesh.dashboard.report import render
from fedmesh.dashboard.text import milliseconds, number, percent, seconds, size
from fedmesh.errors import ConfigError

RESULT = json.loads((Path(__file__).parents[2] / "data" / "result-digits.json").read_text(encoding="utf-8"))
VOID = {"meta", "br"}


@pytest.fixture
def result() -> dict[str, Any]:
    return copy.deepcopy(RESULT)


@pytest.fixture(scope="module")
def page() -> str:
    return render(RESULT)


class Structure(HTMLParser):
    """Fails on tags that do not nest; collects ids, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.attributes += attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def plots_of(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def without_privacy(result: dict[str, Any]) -> None:
    result["privacy"] = {"enabled": False}
    result["final"]["epsilon"] = result["final"]["delta"] = None
    for row in (*result["rounds"], *result["devices"]):
        row["epsilon"] = None


def test_every_figure_is_there(page: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Accuracy by round", "Privacy spent", "Accuracy by device", "Who has what", "Bytes", "Latency", "Failures",
    ]  # fmt: skip
    assert len(plots_of(page)) == len(headings)


def test_is_well_formed_with_unique_ids(page: str) -> None:
    structure = Structure(page)
    assert len(structure.ids) == len(set(structure.ids))
    for drawing in plots_of(page):
        ET.fromstring(drawing)


def test_references_inside_a_drawing_lead_somewhere(page: str) -> None:
    structure = Structure(page)
    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert wanted
    assert wanted <= set(structure.ids)


def test_loads_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not [value for key, value in Structure(page).attributes if key in {"src", "href"} and value[0] != "#"]
    assert "@import" not in page
    assert "<script" not in page
    assert not re.search(r"url\((?!#)", page)


def test_colours_and_font_come_from_the_page(page: str) -> None:
    for drawing in plots_of(page):
        assert not re.search(r"#[0-9a-f]{6}\b", drawing), "a colour that would not follow light and dark"
        assert "DejaVu" not in drawing
    used = set(re.findall(r"var\(--([a-z-]+)\)", page))
    defined = set(re.findall(r"--([a-z-]+):", page))
    assert used <= defined


def test_the_same_result_gives_the_same_bytes(page: str, result: dict[str, Any]) -> None:
    assert render(result) == page


def test_says_what_came_out(page: str) -> None:
    final = RESULT["final"]
    assert f"reached <strong>{percent(final['accuracy_int8'])}</strong>" in page
    assert "from a public start of 81.1%" in page
    assert "bit for bit" in page
    assert final["sha256"] in page
    assert "No secure aggregation." in page
    assert "Noise was keyed by the seed: repeatable, for simulation only." in page


def test_a_run_without_privacy_says_so(result: dict[str, Any]) -> None:
    without_privacy(result)
    page = render(result)
    assert "No differential privacy." in page
    assert "Privacy spent" not in page


def test_an_export_that_differs_is_told(result: dict[str, Any]) -> None:
    result["final"]["max_abs_logit_difference"] = 3.2e-4
    page = render(result)
    assert "not exactly the trained one" in page
    assert "bit for bit" not in page


def test_a_model_quantized_after_training_is_not_called_the_trained_one(result: dict[str, Any]) -> None:
    result["config"]["quantization"]["training"] = "float"
    page = render(result)
    assert "Quantized after training." in page
    assert "Trained = deployed" not in page


def test_the_least_that_a_result_holds(result: dict[str, Any]) -> None:
    without_privacy(result)
    for key in ("start", "devices", "latency_ms", "failures", "config", "versions", "privacy", "classes"):
        del result[key]
    result["rounds"] = result["rounds"][:1]
    result["rounds"][0]["loss"] = None
    page = render(result)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Accuracy by round", "Bytes"]
    Structure(page)


def test_hostile_text_stays_text(result: dict[str, Any]) -> None:
    attack = "<script>alert(1)</script>\" onload='x' &amp; </svg></style>"
    result["scenario"] = result["final"]["model"] = result["config"]["description"] = attack
    result["privacy"]["noise"] = result["privacy"]["level"] = attack
    result["failures"][0]["reason"] = result["config"]["model"]["name"] = attack
    result["classes"] = [attack, *result["classes"][1:]]
    result["versions"] = {attack: attack}
    page = render(result)
    assert "<script" not in page
    assert not [key for key, _ in Structure(page).attributes if key.startswith("on")]
    for drawing in plots_of(page):
        ET.fromstring(drawing)


def test_math_in_a_name_is_not_set_as_math(result: dict[str, Any]) -> None:
    result["classes"] = [r"$\frac$", *result["classes"][1:]]
    assert any(r"$\frac$" in drawing for drawing in plots_of(render(result)))


@pytest.mark.parametrize("count", [1, 17, 300])
def test_fleets_of_any_size(result: dict[str, Any], count: int) -> None:
    one = result["devices"][0]
    result["devices"] = [one | {"device": number, "accuracy_int8": number % 7 / 7} for number in range(count)]
    page = render(result)
    assert ("80 of 300 devices are shown" in page) == (count == 300)
    Structure(page)


def test_devices_that_hold_nothing_out_have_no_accuracy(result: dict[str, Any]) -> None:
    for row in result["devices"]:
        row["accuracy_int8"] = None
    assert "Accuracy by device" not in render(result)


@pytest.mark.parametrize("broken", [{}, {"rounds": []}, {"rounds": 3}, RESULT | {"rounds": [{"round": 1}]}])
def test_what_is_not_a_result(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not the content of a result\.json"):
        write_report(broken, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(RESULT, tmp_path / "missing" / "report.html")


def test_writes_the_page(tmp_path: Path, page: str) -> None:
    write_report(RESULT, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(("count", "most"), [(3, 5), (5, 5), (6, 5), (100, 7), (100, 80)])
def test_evenly_keeps_the_ends(count: int, most: int) -> None:
    chosen = plots.evenly(range(count), most)
    assert len(chosen) == min(count, most) == len(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, count - 1)


def test_figures_in_words() -> None:
    assert [size(v) for v in (0, 999, 1000, 123_456, 2.5e6, 3e9)] == [
        "0 B", "999 B", "1.0 kB", "123 kB", "2.5 MB", "3.0 GB",
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0, 0.87654, 0.99999, 1)] == ["-", "0.0%", "87.7%", "100.0%", "100%"]
    assert [number(v) for v in (8.0, 0.25, 1e-5, 3.2e-4, 1e6, 0)] == ["8", "0.25", "1e-5", "3.2e-4", "1e6", "0"]
    assert [seconds(v) for v in (41.72, 185)] == ["41.7 s", "3 min 5 s"]
    assert [milliseconds(v).split() for v in (0.0201, 14.44)] == [["20.1", "µs"], ["14.4", "ms"]]
