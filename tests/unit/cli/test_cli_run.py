"""``fedmesh run start --mesh``: what it prints, what it refuses, and that nothing is begun then."""

import asyncio
import json
from unittest import mock

import pytest
from device_fleet import private_task
from mesh_nodes import in_loop, until
from mesh_runs import NAMES, QUICK, RunNodes

from fedmesh.cli import main
from fedmesh.errors import ConfigError
from fedmesh.fleet import mesh_start
from fedmesh.fleet.kit import Kit
from fedmesh.fleet.mesh_start import Begun
from fedmesh.peer.learning import Prepared
from fedmesh.peer.starting import check_start, start
from fedmesh.peer.status import ask
from fedmesh.types import Layout
from fedmesh.wire import dumps

PREPARED = Prepared("digits", b"scenario", b"model 0", b"state 0", 2, 4, 3, QUICK)


def kit(parameters):
    layout = Layout(("w",), ((parameters,),))
    return Kit("vision", {}, dumps(private_task().to_plain()), b"", layout).to_bytes()


@pytest.fixture
def prepared(monkeypatch):
    """Stands in for what prepares a scenario."""
    asked = []

    def begin(scenario, *, run, members, folder, datasets_folder):
        asked.append((scenario.name, scenario.rounds, members))
        return Begun("digits", kit(scenario.delta.bits * 10), b"model 0", b"state 0", 2, 4)

    monkeypatch.setattr(mesh_start, "begin", begin)
    return asked


async def called(*arguments):
    return await asyncio.to_thread(main, ["run", "start", *map(str, arguments)])


def test_without_mesh_it_says_what_it_wants(capsys):
    assert main(["run", "start", "digits"]) == 2
    assert "fedmesh run start SCENARIO --mesh" in capsys.readouterr().err


def test_without_a_file_or_a_node_it_says_so(tmp_path, capsys, prepared):
    assert main(["run", "start", "digits", "--mesh", "--config", str(tmp_path / "peer.toml")]) == 2
    assert "there is no file" in capsys.readouterr().err
    path = tmp_path / "peer.toml"
    path.write_text('[identity]\nfolder = "anna"\n[mesh]\nfolder = "state"\n[mesh.seeds]\nbert = ["127.0.0.1:1"]\n')
    assert main(["run", "start", "digits", "--mesh", "--config", str(path)]) == 2
    assert "no node runs" in capsys.readouterr().err
    assert prepared == []


def test_a_run_is_started_and_shown_and_a_second_one_refused(tmp_path, capsys, prepared):
    @in_loop
    async def story():
        async with RunNodes(tmp_path, *NAMES) as nodes:
            await nodes.enter_all()
            for name in NAMES:
                nodes.learning[name].gate.clear()
            options = ("digits", "--mesh", "--config", tmp_path / "anna.toml")
            assert await called(*options, "--rounds", "2", "--json") == 0
            begun = json.loads(capsys.readouterr().out)
            assert begun == {
                "run": begun["run"], "task": "digits", "members": sorted(NAMES), "quorum": 4, "rounds": 2,
            }  # fmt: skip
            await until(lambda: all(nodes.run_of(name) is not None for name in NAMES), 30.0)
            large = kit(10**8)
            with mock.patch(f"{__name__}.kit", return_value=large):
                assert await called(*options) == 2
            assert "(100,000,000 parameters at " in capsys.readouterr().err
            prepared.pop()
            assert await called(*options) == 2
            assert f"a run of digits is under way ({begun['run']}" in capsys.readouterr().err
            assert await asyncio.to_thread(main, ["mesh", "status", str(tmp_path / "anna.toml")]) == 0
            assert f"run {begun['run'][:8]} of digits: round 1, attempt 0, aggregator" in capsys.readouterr().out
            for name in NAMES:
                nodes.learning[name].gate.set()
            await until(lambda: nodes.is_over(*NAMES), 70.0, about=lambda: [nodes.story(name) for name in NAMES])
            assert await called(*options, "--members", "anna,bert,cleo,dora") == 0
            said = capsys.readouterr().out
            assert "members: anna, bert, cleo, dora; 3 of 4 have to agree" in said
            assert "watch it with fedmesh mesh status" in said
            assert prepared == [("digits", 2, 5), ("digits", 20, 5), ("digits", 20, 4)]
            await until(lambda: nodes.run_of("dora").charter.rounds == 2 and nodes.is_over("dora"), 70.0)
            assert nodes.learning["dora"].scenarios[-1] == kit(80)

    story()


def test_it_is_refused_before_anything_is_prepared(tmp_path, capsys, prepared):
    @in_loop
    async def story():
        async with RunNodes(tmp_path, *NAMES) as nodes:
            await nodes.enter_all(NAMES[:3])
            options = ("digits", "--mesh", "--config", tmp_path / "anna.toml")
            assert await called("digits", "--mesh", "--config", tmp_path / "bert.toml") == 2
            assert "bert has no right to start runs" in capsys.readouterr().err
            assert await called(*options) == 2
            assert "3 members are here (anna, bert, cleo), a run has 4 to 128" in capsys.readouterr().err
            assert await called(*options, "--members", "anna,bert,cleo,nobody") == 2
            assert "not on the roster, or revoked: nobody" in capsys.readouterr().err
            assert prepared == []
            assert all(nodes.run_of(name) is None for name in NAMES[:3])

    story()


def test_what_is_no_request_is_refused(tmp_path):
    @in_loop
    async def story():
        async with RunNodes(tmp_path, *NAMES[:4]) as nodes:
            await nodes.enter_all()
            folder = nodes.state("anna")

            async def refused(words, **request):
                with pytest.raises(ConfigError, match=words):
                    await asyncio.to_thread(ask, folder, **request)

            await refused("does none of that", do="dance")
            await refused("is no run", do="start", members=None)
            await refused("a list of names", do="start", members=[1])
            good = {
                "do": "start", "task": "t", "scenario": "00" * 32, "model": "00" * 32, "state": "00" * 32, "rounds": 1,
                "fewest": 4, "attempts": 1, "schedule": [1.0, 1.0, 1.0], "members": None,
            }  # fmt: skip
            await refused("is not in blobs", **good)
            await refused("64 hexadecimal", **{**good, "model": "zz"})
            await refused("cannot be signed", **{**good, "rounds": 0})
            await refused("is no run", **{**good, "schedule": [0, 1, 1]})
            await refused("5 inputs at least, and 4 members", **{**good, "fewest": 5})
            assert await asyncio.to_thread(check_start, folder, None) == {"members": sorted(NAMES[:4])}
            assert not nodes.nodes["anna"].runs.all
            begun = await asyncio.to_thread(start, folder, PREPARED, members=None, again=False)
            other = await asyncio.to_thread(start, folder, PREPARED, members=None, again=True)
            assert begun["run"] != other["run"]

    story()
