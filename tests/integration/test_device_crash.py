"""A device's agent that is killed by SIGKILL at every step of a message, and started again.

The ledger holds exactly the charges that were made, nothing is trained twice, and the message is answered.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from device_fleet import Site, Voice, private_task, until
from folder_carrier import FolderCarrier

SUPPORT = Path(__file__).parents[1] / "support"


class Killed:
    """The device of `site` as processes, one after another."""

    def __init__(self, site: Site) -> None:
        self.site, self.carriers = site, site.folder / "carriers"
        plugin = site.folder / "plugins" / "killed-1.dist-info"
        plugin.mkdir(parents=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: killed\nVersion: 1\n")
        (plugin / "entry_points.txt").write_text("[fedmesh.clients]\nkilled = killed_client:build\n")
        self.trainings = site.folder / "trainings"
        self.trainings.touch()

    def start(self, step: str = "") -> subprocess.Popen[bytes]:
        path = [str(SUPPORT), str(self.site.folder / "plugins"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "FEDMESH_TEST_KILL": step,
            "FEDMESH_TEST_TRAININGS": str(self.trainings),
        }
        script = [sys.executable, str(SUPPORT / "killed_agent.py"), str(self.site.path), str(self.carriers), step]
        return subprocess.Popen(script, env=environment)

    def child(self) -> int | None:
        """The process in which the agent was killed."""
        path = Path(f"{self.trainings}.pid")
        return int(path.read_text()) if path.exists() else None

    def trained(self) -> list[str]:
        return self.trainings.read_text().split()


def is_over(pid: int) -> bool:
    """Whether a process runs no more; nobody may have taken note of its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("step", "error", "trained", "charges"),
    [
        pytest.param("accepted", "", ["1", "2"], 2, marks=pytest.mark.slow),
        ("received", "", ["1", "2"], 2),
        pytest.param("begun", "restarted", ["2"], 1, marks=pytest.mark.slow),
        ("charged", "restarted", ["1", "2"], 2),
        pytest.param("trained", "restarted", ["1", "2"], 2, marks=pytest.mark.slow),
        ("kept", "", ["1", "2"], 2),
        pytest.param("posted", "", ["1", "2"], 2, marks=pytest.mark.slow),
    ],
)
def test_a_device_that_is_killed_at_any_step(tmp_path, step, error, trained, charges):
    site = Site(tmp_path, {"clients": ["killed"]})
    killed = Killed(site)

    async def main():
        voice = Voice(site, FolderCarrier(killed.carriers, "coordinator"))
        process = killed.start(step)
        try:
            if step == "accepted":
                await voice.say_offer(private_task(), client="killed")
            else:
                assert (await voice.offer(private_task(), client="killed"))["accepted"]
            message = voice.train(1)
            await voice.instruct(message)
            await until(lambda: process.poll() is not None)
            assert process.returncode == -signal.SIGKILL
            if (pid := killed.child()) is not None:
                await until(lambda: is_over(pid))
            process = killed.start()
            reply, _ = await voice.reply()
            assert (reply.message, reply.error) == (message.metadata.message_id, error)
            await voice.instruct(voice.train(2), number=2)
            reply, _ = await voice.reply()
            if reply.message == message.metadata.message_id:  # posted, and killed before that was noted
                assert step == "posted"
                reply, _ = await voice.reply()
            assert reply.error == ""
        finally:
            process.kill()
            process.wait()
            await voice.close()

    asyncio.run(main())
    assert killed.trained() == trained
    assert site.charges() == charges


def test_the_agent_loads_neither_torch_nor_flower_and_stays_small(tmp_path):
    site = Site(tmp_path, {"clients": ["killed"]})
    killed = Killed(site)

    async def main():
        voice = Voice(site, FolderCarrier(killed.carriers, "coordinator"))
        process = killed.start("report")
        try:
            assert (await voice.offer(private_task(), client="killed"))["accepted"]
            await voice.instruct(voice.train(1))
            assert (await voice.reply())[0].error == ""
            await until((killed.carriers / "report.json").exists)
            process.terminate()
            await until(lambda: process.poll() is not None)
            assert process.returncode == -signal.SIGTERM  # this script has no handler; the command has
        finally:
            process.kill()
            process.wait()
            await voice.close()

    asyncio.run(main())
    report = json.loads((killed.carriers / "report.json").read_text())
    heavy = {"torch", "flwr", "onnxruntime", "opacus", "scipy", "sklearn", "dp_accounting", "google.protobuf"}
    assert not heavy & set(report["modules"])
    assert report["rss_mb"] < 90, report["rss_mb"]


@pytest.mark.slow
def test_a_device_that_is_killed_again_and_again_answers_in_the_end(tmp_path):
    """Killed at whatever step it happens to be in; every message is trained at most once, and answered."""
    site = Site(tmp_path, {"clients": ["killed"], "privacy": {"required": False, "example_epsilon": 100.0}})
    killed = Killed(site)

    async def main():
        voice = Voice(site, FolderCarrier(killed.carriers, "coordinator"))
        process = killed.start()
        outcomes = []
        try:
            assert (await voice.offer(private_task(), client="killed"))["accepted"]
            for number, wait_s in enumerate((0.0, 0.2, 0.5, 0.9, 1.4), start=1):
                message = voice.train(number)
                await voice.instruct(message, number=number)
                await asyncio.sleep(wait_s)  # somewhere
                process.kill()
                process.wait()
                process = killed.start()
                reply, _ = await voice.reply()
                while reply.message != message.metadata.message_id:  # one before it, killed before that was noted
                    reply, _ = await voice.reply()
                outcomes.append(reply.error)
        finally:
            process.kill()
            process.wait()
            await voice.close()
        assert set(outcomes) <= {"", "restarted"}
        return outcomes

    outcomes = asyncio.run(main())
    assert len(set(killed.trained())) == len(killed.trained())
    assert outcomes.count("") <= site.charges() <= len(outcomes)
    assert site.charges() <= len(killed.trained())
