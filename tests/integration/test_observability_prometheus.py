"""A real Prometheus scrapes a node, and has an answer to every query of the dashboard."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from exported import EVERY_EVENT

from fedmesh.configuration.values import Address
from fedmesh.observability import Health, MetricsServer, NodeMetrics, RunMetrics
from fedmesh.testing.loopback_broker import free_port

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy/grafana/fedmesh.json").read_text("utf-8"))
QUERIES = [
    target["expr"].replace("$task", ".*").replace("$__rate_interval", "1m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
PROMETHEUS = shutil.which("prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMETHEUS is None and not os.environ.get("CI"),
        reason="Prometheus is not installed: apt-get install prometheus",
    ),
]


def asked(port: int, query: str) -> list[Any]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        result: list[Any] = json.load(answer)["data"]["result"]
        return result


def test_every_query_of_the_dashboard_has_an_answer(tmp_path):
    assert PROMETHEUS is not None, "under CI Prometheus has to be there: apt-get install prometheus"
    node, counts, port = NodeMetrics(), {"digest": 0}, free_port()
    node.watch(connected=lambda: True, present=lambda: 1, certificate_ends=lambda: 2e9)
    node.refusals.watch("transport", lambda: counts)
    tell = RunMetrics(node.registry).sink("digits")
    with MetricsServer(Address("127.0.0.1", 0), node.registry, Health()) as server:
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms}\n"
            f"scrape_configs: [{{job_name: fedmesh, static_configs: [{{targets: ['{server.address}']}}]}}]\n"
        )
        command = [
            PROMETHEUS,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                open_questions, until = set(QUERIES), time.monotonic() + 60
                while open_questions and time.monotonic() < until and process.poll() is None:
                    for event in EVERY_EVENT:
                        tell(event)
                    counts["digest"] += 1
                    time.sleep(0.3)
                    open_questions = {query for query in open_questions if not tried(port, query)}
                assert not open_questions, (tmp_path / "log").read_text()
            finally:
                process.terminate()


def tried(port: int, query: str) -> bool:
    """Whether there is an answer, and not yet none because Prometheus is still starting."""
    try:
        return bool(asked(port, query))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 503:  # it reads its log
                return False
            raise
    except urllib.error.URLError:
        return False
