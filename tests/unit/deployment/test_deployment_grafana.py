"""Every query of the dashboard asks for what is really exported, by labels that it really has."""

import json
import re
from pathlib import Path

import pytest
from exported import EVERY_EVENT

from fedmesh.observability import NodeMetrics, RunMetrics

DASHBOARD = json.loads((Path(__file__).parents[3] / "deploy/grafana/fedmesh.json").read_text("utf-8"))
SCRAPED = {"instance", "job"}
"""Labels that Prometheus itself puts on what it scrapes."""
AGGREGATIONS = {"sum", "min", "max", "avg", "count"}
TOKEN = re.compile(
    r"(?P<string>\"(?:[^\"\\]|\\.)*\")|(?P<range>\[[^\]]*\])|(?P<labels>\{[^}]*\})|(?P<word>[A-Za-z_:][\w:]*)"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<sign>[-+*/(),]|[<>=!]=?)|(?P<space>\s+)"
)
QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


def exported() -> dict[str, set[str]]:
    """Name -> labels of every sample there is after one event of each kind and one refusal."""
    node = NodeMetrics()
    node.watch(connected=lambda: True, present=lambda: 1, certificate_ends=lambda: 1.0)
    node.refusals.watch("transport", lambda: {"digest": 1})
    run = RunMetrics(node.registry)
    for event in EVERY_EVENT:
        run.sink("digits")(event)
    found: dict[str, set[str]] = {}
    for family in node.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()


class Query:
    """The names that a PromQL expression is made of. Raises: ValueError: it is not of the PromQL that is used here."""

    def __init__(self, expression: str) -> None:
        self.metrics: set[str] = set()
        self.matched: set[str] = set()
        self.grouped: set[str] | None = None
        self.ranged: set[str] = set()
        tokens = []
        position = 0
        while position < len(expression):
            match = TOKEN.match(expression, position)
            if match is None:
                raise ValueError(f"{expression!r} at {position}")
            position = match.end()
            if match.lastgroup != "space":
                tokens.append((match.lastgroup, match.group()))
        if [text for _, text in tokens].count("(") != [text for _, text in tokens].count(")"):
            raise ValueError(f"{expression!r}: unbalanced")
        self._read([*tokens, ("end", "")])

    def _read(self, tokens: list[tuple[str | None, str]]) -> None:
        index, last = 0, ""
        while tokens[index][0] != "end":
            kind, text = tokens[index]
            if text == "by":
                end = next(place for place in range(index, len(tokens)) if tokens[place][1] == ")")
                self.grouped = {name for what, name in tokens[index:end] if what == "word"} - {"by"}
                index = end
            elif kind == "word" and tokens[index + 1][1] != "(" and text not in AGGREGATIONS:
                self.metrics.add(text)
                last = text
            elif kind == "labels":
                self.matched |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", text))
            elif kind == "range":
                self.ranged.add(last)
            index += 1


@pytest.mark.parametrize(("title", "expression", "legend"), QUERIES)
def test_a_query_asks_for_what_is_exported(title, expression, legend):
    query = Query(expression)
    assert query.metrics <= EXPORTED.keys(), title
    labels = set.intersection(*(EXPORTED[name] for name in query.metrics)) | SCRAPED
    assert query.matched <= labels
    assert (query.grouped or set()) <= labels
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert shown <= (labels if query.grouped is None else query.grouped)


@pytest.mark.parametrize(("title", "expression", "legend"), QUERIES)
def test_rates_are_of_what_only_grows(title, expression, legend):
    for name in Query(expression).ranged:
        assert name.endswith(("_total", "_bucket", "_sum", "_count")), title


def test_a_metric_that_is_not_there_is_noticed():
    assert "fedmesh_rounds" in Query("rate(fedmesh_rounds[5m])").metrics - EXPORTED.keys()
    assert Query('sum by (device) (x_total{node="1"})').grouped == {"device"}
    assert Query('sum by (device) (x_total{node=~"1", b!="2"})').matched == {"node", "b"}
    with pytest.raises(ValueError, match="unbalanced"):
        Query("sum(a")


def test_the_variable_asks_for_what_is_exported():
    task = next(variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "task")
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", task["query"]["query"]).groups()
    assert label in EXPORTED[name]


def test_panels_are_told_apart_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_asks_the_chosen_prometheus():
    for panel in DASHBOARD["panels"]:
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
