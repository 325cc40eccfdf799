"""The process that trains, as the agent sees it: what it says when it ends, is slow, or cannot begin."""

import asyncio
import os
import resource
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from device_fleet import Site, is_there, private_task

from fedmesh.fleet.training import IDLE_S, Training
from fedmesh.wire import dumps

HEAD = {"message": "m", "what": "train", "round": 1}


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@asynccontextmanager
async def training(site: Site, *, task: bytes | None = None, idle_s: float = IDLE_S, **changes: object):
    device = site.device()
    spec = {
        "run": 7,
        "name": device.membership.name.uri,
        "coordinator": "coordinator",
        "client": "lite",
        "tables": device.tables,
        "folder": str(device.folder),
        "memory_mb": None,
        "nice": 5,
        **changes,
    }
    parts = (dumps(private_task().to_plain()) if task is None else task, b"")
    process = Training(spec, parts, max_bytes=1 << 20, idle_s=idle_s)
    try:
        yield process
    finally:
        process.close()


def oom_score(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text()


def ask(process: Training, *, timeout_s: float = 60.0):
    return process.ask(HEAD, b"", (b"no message",), timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, "malformed"),
        ({"task": b"\xff"}, "malformed"),
        ({"task": dumps({"name": "x"})}, "policy"),
        ({"client": "none"}, "policy"),
        ({"folder": "/nowhere"}, "policy"),
    ],
)
def test_what_cannot_be_done_is_one_word(site, changes, error):
    async def main():
        async with training(site, **changes) as process:
            for _ in range(2):
                outcome = await ask(process)
                assert (outcome.error, outcome.reply, outcome.state) == (error, (), None)

    asyncio.run(main())


def test_a_process_that_is_killed_is_taken_for_out_of_memory_and_the_next_message_gets_another(site):
    async def main():
        async with training(site) as process:
            await ask(process)
            first = process.pid
            os.kill(first, signal.SIGSTOP)
            asking = asyncio.ensure_future(ask(process))
            await asyncio.sleep(0.05)
            os.kill(first, signal.SIGKILL)
            assert (await asking).error == "limits"
            assert process.pid is None
            assert (await ask(process)).error == "malformed"
            assert process.pid not in {None, first}

    asyncio.run(main())


def test_one_that_takes_too_long_is_ended(site):
    async def main():
        async with training(site) as process:
            await ask(process)
            pid = process.pid
            os.kill(pid, signal.SIGSTOP)
            assert (await ask(process, timeout_s=0.1)).error == "limits"
            assert not is_there(pid)

    asyncio.run(main())


def test_nobody_waits_any_more(site):
    async def main():
        async with training(site) as process:
            await ask(process)
            pid = process.pid
            os.kill(pid, signal.SIGSTOP)
            asking = asyncio.ensure_future(ask(process))
            await asyncio.sleep(0.05)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            assert not is_there(pid)

    asyncio.run(main())


def test_its_limits_are_lower_than_ours(site):
    async def main():
        async with training(site, memory_mb=512) as process:
            await ask(process)
            pid = process.pid
            assert resource.prlimit(pid, resource.RLIMIT_DATA) == (512 << 20, 512 << 20)
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 5
            assert oom_score(pid) == "800\n"

    asyncio.run(main())


def test_a_process_without_memory_to_begin_with(site):
    async def main():
        async with training(site, memory_mb=40) as process:
            assert (await ask(process)).error in {"limits", "crashed"}

    asyncio.run(main())


def test_a_process_that_does_not_read_yet_keeps_nobody_waiting(site, tmp_path, monkeypatch):
    """What it is told first is longer than what the pipe holds."""
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr("fedmesh.fleet.training.sys.executable", str(sleeper))

    async def main():
        async with training(site, padding=bytes(8 << 20)) as process:
            process.warm_up()
            assert process.pid is not None
            assert is_there(process.pid), "it has slept its ten minutes"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(process)
            assert process.pid is None

    asyncio.run(main())


def test_one_that_is_asked_nothing_is_ended_and_the_next_message_gets_another(site):
    async def main():
        async with training(site, idle_s=0.2) as process:
            process.warm_up()  # for a message that never comes
            first = process.pid
            await ended(process)
            assert not is_there(first)
            await ask(process)  # which takes longer than that
            await ended(process)

    asyncio.run(main())


async def ended(process: Training) -> None:
    async with asyncio.timeout(60):
        while process.pid is not None:
            await asyncio.sleep(0.02)


def test_one_that_works_is_not_idle(site):
    async def main():
        async with training(site, idle_s=0.2) as process:
            process.warm_up()
            pid = process.pid
            os.kill(pid, signal.SIGSTOP)
            asking = asyncio.ensure_future(ask(process))
            await asyncio.sleep(0.6)
            assert process.pid == pid
            os.kill(pid, signal.SIGCONT)
            assert (await asking).error == "malformed"

    asyncio.run(main())
