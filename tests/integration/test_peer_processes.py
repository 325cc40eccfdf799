"""Members of a mesh as processes: they find each other by a seed, one is killed, comes back, and all end in order."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mesh_nodes import Nodes, free_port, in_loop, until

from fedmesh.peer.status import SOCKET

pytestmark = pytest.mark.slow

NAMES = ("anna", "bert", "cleo")


def everybody(view, **states):
    return view == {**dict.fromkeys(NAMES, "alive"), **states}


def rss_mb(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@in_loop
async def test_three_processes_agree_on_who_is_here(tmp_path):
    async with Nodes(tmp_path, *NAMES) as nodes:
        nodes.ports = {name: free_port() for name in NAMES}
        for name in NAMES:
            nodes.start(name)
        try:
            await until(lambda: all(everybody(nodes.view(name)) for name in NAMES), 30.0)
        except AssertionError:
            raise AssertionError("\n".join(nodes.said(name) for name in NAMES)) from None
        assert stat.S_IMODE((nodes.state("anna") / SOCKET).stat().st_mode) == 0o600
        before = {one["name"]: one["incarnation"] for one in nodes.status("anna")["members"]}

        nodes.processes["cleo"].kill()
        nodes.processes["cleo"].wait()
        await until(lambda: all(everybody(nodes.view(name), cleo="dead") for name in NAMES[:2]), 60.0)

        nodes.start("cleo")
        await until(lambda: all(everybody(nodes.view(name)) for name in NAMES), 40.0)
        after = {one["name"]: one["incarnation"] for one in nodes.status("anna")["members"]}
        assert after["cleo"] > before["cleo"]
        assert max(rss_mb(nodes.processes[name]) for name in NAMES) <= 75

        shown = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "fedmesh", "mesh", "status", str(tmp_path / "anna.toml"), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        said = json.loads(shown.stdout)
        assert said["self"] == "anna"
        assert said["round"] is None
        assert said["aggregator"] is None
        assert [set(one) for one in said["members"]] == [{"name", "state", "incarnation", "model"}] * 3

        began = time.monotonic()
        for name in NAMES:
            nodes.processes[name].send_signal(signal.SIGTERM)
        codes = [await asyncio.to_thread(nodes.processes[name].wait) for name in NAMES]
        assert codes == [0, 0, 0]
        assert time.monotonic() - began < 2.0
        told = [
            event for event in nodes.told("anna") if event["event"] == "MemberChanged" and event["device"] == "cleo"
        ]
        states = [event["state"] for event in told]
        assert [state for state in states if state != "suspect"][:3] == ["alive", "dead", "alive"]
        assert "Traceback" not in "".join(nodes.said(name) for name in NAMES)
