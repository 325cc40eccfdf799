"""Members of a mesh as processes: they find each other by a seed, one is killed, comes back, and all end in order."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from mesh_nodes import Nodes, in_loop, until

from fedmesh.peer.status import SOCKET
from fedmesh.testing.loopback_broker import free_port

pytestmark = pytest.mark.slow

NAMES = ("anna", "bert", "cleo")


def everybody(view, **states):
    return view == {**dict.fromkeys(NAMES, "alive"), **states}


def rss_mb(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def incarnations(nodes):
    """As anna sees it; who is slow to answer is asked again."""
    found = []

    def told():
        found[:] = nodes.status("anna")["members"]
        return len(found) == len(NAMES)

    await until(told)
    return {one["name"]: one["incarnation"] for one in found}


@in_loop
async def test_three_processes_agree_on_who_is_here(tmp_path):
    async with Nodes(tmp_path, *NAMES) as nodes:
        nodes.ports = {name: free_port() for name in NAMES}
        for name in NAMES:
            nodes.start(name)
        try:
            await until(lambda: all(everybody(nodes.view(name)) for name in NAMES))
        except AssertionError:
            raise AssertionError("\n".join(nodes.said(name) for name in NAMES)) from None
        assert stat.S_IMODE((nodes.state("anna") / SOCKET).stat().st_mode) == 0o600
        before = await incarnations(nodes)

        nodes.processes["cleo"].kill()
        nodes.processes["cleo"].wait()
        await until(lambda: all(everybody(nodes.view(name), cleo="dead") for name in NAMES[:2]))

        nodes.start("cleo")
        await until(lambda: all(everybody(nodes.view(name)) for name in NAMES))
        after = await incarnations(nodes)
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

        for name in NAMES:
            nodes.processes[name].send_signal(signal.SIGTERM)
        codes = [await asyncio.to_thread(nodes.processes[name].wait) for name in NAMES]
        assert codes == [0, 0, 0]
        told = [
            event for event in nodes.told("anna") if event["event"] == "MemberChanged" and event["device"] == "cleo"
        ]
        # On a busy machine one may be suspected, or taken for dead, and come back.
        states = [
            state for state, _ in groupby(event["state"] for event in told if event["state"] in {"alive", "dead"})
        ]
        assert states[-3:] == ["alive", "dead", "alive"]
        assert "Traceback" not in "".join(nodes.said(name) for name in NAMES)
