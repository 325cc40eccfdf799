"""The agent of a device over a transport in memory, with its real training process."""

import asyncio
import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime

import device_fleet
import heads
import pytest
from device_fleet import RUN, Site, conversation, is_there, until

from fedmesh import events
from fedmesh.client import journal as journal_module
from fedmesh.client.eligibility import Facts
from fedmesh.client.journal import Waiting
from fedmesh.fleet import agent as agent_module
from fedmesh.fleet import readiness
from fedmesh.fleet.readiness import Readiness
from fedmesh.flower.records import new_message_id


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def succeeded(outcome) -> None:
    reply, message = outcome
    assert reply.error == ""
    assert not message.has_error(), message.error


def processes(agent) -> list[int]:
    """Ids of the training processes that there are."""
    return [work._training.pid for work, _ in agent._works.values() if work._training.pid is not None]


def test_a_run_from_its_offer_to_its_end(site):
    told = []

    async def main():
        async with conversation(site, events=told.append) as (voice, agent):
            here, _ = await voice.hear("here")
            assert (here["tier"], here["clients"], here["available"], here["why"]) == ("lite", ["lite"], True, "")
            assert processes(agent) == []
            assert await voice.offer(device_fleet.private_task()) == {"run": RUN, "accepted": True, "why": ""}
            for number in (1, 2):
                succeeded(await voice.round(number))
            (pid,) = processes(agent)
            await voice.end()
            await until(lambda: not is_there(pid))
            await voice.instruct(voice.train(3))
            reply, message = await voice.reply()
            assert (reply.error, message) == ("run", None)

    asyncio.run(main())
    assert site.charges() == 2
    assert [event for event in told if isinstance(event, events.ReplyKept)] == [
        events.ReplyKept(RUN, number, "train", "") for number in (1, 2)
    ]


def test_a_message_that_comes_again_gets_the_same_reply(site):
    async def main():
        async with conversation(site) as (voice, _):
            await voice.offer(device_fleet.private_task())
            message = voice.train(1)
            replies = []
            for _ in range(2):
                await voice.instruct(message)
                replies.append(await voice.hear("reply"))
            assert replies[0] == replies[1]
        async with conversation(site) as (voice, _):
            await voice.instruct(message)
            assert await voice.hear("reply") == replies[0]

    asyncio.run(main())
    assert site.charges() == 1


@pytest.mark.parametrize(
    ("changes", "client", "why"),
    [
        ({}, "vision", "client"),
        ({"dp": None}, "lite", "policy"),
        ({"dp": heads.DP, "error_feedback": True}, "lite", "policy"),
    ],
)
def test_what_the_device_does_not_do_is_declined(site, changes, client, why):
    site.write(privacy={"required": True})

    async def main():
        async with conversation(site) as (voice, _):
            answer = await voice.offer(replace(device_fleet.private_task(), **changes), client=client)
            assert answer == {"run": RUN, "accepted": False, "why": why}
            reply, _ = await voice.round(1)
            assert reply.error == "run"

    asyncio.run(main())


def test_a_budget_that_is_spent_declines_the_next_run_as_well(site):
    site.write(privacy={"required": True})

    async def main():
        async with conversation(site) as (voice, _):
            await voice.offer(device_fleet.private_task())
            reasons = []
            while not reasons:
                _, message = await voice.round(1)
                reasons += [message.error.reason] if message.has_error() else []
            assert reasons == ["BudgetError"]
            charged = site.charges()
            answer = await voice.offer(device_fleet.private_task(name="other"), run=8)
            assert answer == {"run": 8, "accepted": False, "why": "budget"}
            assert site.charges() == charged > 0

    asyncio.run(main())


def test_a_seed_that_the_coordinator_sends_is_not_used(site):
    """The same weights in two rounds of one number: with a keyed seed the releases would be the same, and free."""

    async def main():
        async with conversation(site) as (voice, _):
            task = device_fleet.private_task()
            assert task.keyed_noise_seed is not None
            await voice.offer(task)
            packets = [device_fleet.training.packet_of((await voice.round(1))[1]) for _ in range(2)]
            assert packets[0] != packets[1]

    asyncio.run(main())
    assert site.charges() == 2


def test_what_is_abandoned_is_not_answered_and_its_training_ends(site, tmp_path):
    site.write(data={"kind": "hook", "function": "slow_data:load"})
    (tmp_path / "slow_data.py").write_text(
        f"import os, time\ndef load():\n    open({str(tmp_path / 'loading')!r}, 'w').close()\n    time.sleep(600)\n"
    )

    async def main():
        async with conversation(site) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            first, second = voice.train(1), voice.train(2)
            await voice.instruct(first)
            await voice.instruct(second)
            await until((tmp_path / "loading").exists)
            (pid,) = processes(agent)
            await voice.abandon(first.metadata.message_id, second.metadata.message_id)
            await until(lambda: not is_there(pid))
            assert agent._journal.outstanding(RUN) == []
            assert agent._journal.unposted() == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        asyncio.run(main())
    assert site.charges() == 0


def test_a_training_process_that_is_killed_is_replaced_and_the_device_rests_after_three(site, tmp_path):
    site.write(data={"kind": "hook", "function": "deadly_data:load"})
    (tmp_path / "deadly_data.py").write_text(
        "import os, signal\ndef load():\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    told = []

    async def main():
        now = [0.0]
        rules = site.device().config.eligibility
        ready = Readiness(rules, monotonic=lambda: now[0])
        async with conversation(site, readiness=ready, events=told.append) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            for number in range(1, readiness.FAILURES + 1):
                assert (await voice.round(number))[0].error == "crashed"
            assert (await voice.round(9))[0].error == "unavailable"
            agent.changed()
            while (await voice.hear("here"))[0]["why"] != "limits":
                pass
            now[0] += readiness.REST_S
            assert (await voice.round(10))[0].error == "crashed"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        asyncio.run(main())
    assert site.charges() == 0


def test_memory_beyond_the_limit_ends_the_training_alone(site, tmp_path):
    site.write(data={"kind": "hook", "function": "large_data:load"}, limits={"memory_mb": 300})
    (tmp_path / "large_data.py").write_text(
        "import numpy as np\ndef load():\n    return np.ones((1 << 27, 21), np.float32), np.zeros(1 << 27, np.int64)\n"
    )

    async def main():
        async with conversation(site) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            assert (await voice.round(1))[0].error == "limits"
            assert processes(agent) == []

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        asyncio.run(main())


def test_processor_time_beyond_the_limit_ends_the_training(site, tmp_path):
    site.write(data={"kind": "hook", "function": "busy_data:load"}, limits={"cpu_seconds": 0.5})
    (tmp_path / "busy_data.py").write_text("def load():\n    while True:\n        pass\n")

    async def main():
        async with conversation(site) as (voice, _):
            await voice.offer(device_fleet.private_task())
            assert (await voice.round(1))[0].error == "limits"

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        asyncio.run(main())


def test_data_that_is_not_there_is_said_by_one_word(site):
    site.write(data={"kind": "npz", "path": "elsewhere.npz"})

    async def main():
        async with conversation(site) as (voice, _):
            await voice.offer(device_fleet.private_task())
            assert (await voice.round(1))[0].error == "data"

    asyncio.run(main())


def test_messages_that_are_not_what_they_were_announced_as(site):
    async def main():
        async with conversation(site) as (voice, _):
            await voice.offer(device_fleet.private_task())
            await voice.instruct(voice.train(1), what="query.secagg")  # to have it run again after a restart
            assert (await voice.reply())[0].error == "malformed"
            stranger = voice.train(1)
            stranger.metadata.__dict__["_dst_node_id"] = 99
            await voice.instruct(stranger)
            assert (await voice.reply())[0].error == "malformed"
            await voice.say(device_fleet.Instruct(RUN, new_message_id(), "train", 1))
            assert (await voice.reply())[0].error == "malformed"

    asyncio.run(main())
    assert site.charges() == 0


def test_a_coordinator_that_started_anew_offers_again_and_waits_for_nothing_from_before(site):
    async def main():
        async with conversation(site) as (voice, agent):
            task = device_fleet.private_task()
            await voice.offer(task)
            async with agent._shared.training:  # a training of another run keeps this one waiting
                await voice.instruct(voice.train(1))
                await until(lambda: agent._journal.outstanding(RUN))
                assert (await voice.offer(task))["accepted"]
            succeeded(await voice.round(2))
            assert voice.heard == [] or all(packet.kind == "here" for packet, _ in voice.heard)

    asyncio.run(main())
    assert site.charges() == 1


def test_nobody_but_the_coordinators_is_heard(site):
    async def main():
        told = []
        async with conversation(site, events=told.append) as (voice, _):
            other = device_fleet.enrolled(site.mesh, "device-2")
            roster, _ = site.mesh.issuer.lists(site.mesh.begun)
            site.membership.accept(site.mesh.begun, roster=roster)
            voice.signet = device_fleet.Signet(other.name, other.signing_key())
            await voice.say(device_fleet.Offer(RUN, "x", "ab" * 32, 1, "lite"), b"", b"")
            await until(lambda: [event for event in told if isinstance(event, events.PacketRefused)])
            assert not [event for event in told if isinstance(event, events.OfferAnswered)]

    asyncio.run(main())


def test_a_coordinator_whose_certificate_was_revoked_is_not_heard(site):
    async def main():
        told = []
        async with conversation(site, events=told.append) as (voice, _):
            assert (await voice.offer(device_fleet.private_task()))["accepted"]
            site.mesh.issuer.revoke("coordinator", site.mesh.begun)
            roster, revocations = site.mesh.issuer.lists(site.mesh.begun)
            site.membership.accept(site.mesh.begun, revocations=revocations)
            agents = voice.agent.device.membership
            agents.accept(site.mesh.begun, revocations=revocations)
            assert "coordinator" in agents.roster.keys  # an old roster does not help it
            await voice.instruct(voice.train(1))
            await until(lambda: [event for event in told if isinstance(event, events.PacketRefused)])
            agents.accept(site.mesh.begun, roster=roster)

    asyncio.run(main())
    assert site.charges() == 0


def test_while_it_may_not_train_it_says_so_and_declines_each_training(site):
    site.write(eligibility={"on_power": True})

    async def main():
        battery = [True]
        rules = site.device().config.eligibility
        ready = Readiness(rules, facts=lambda _local, _hook: Facts(datetime.now(UTC), discharging=battery[0]))
        async with conversation(site, readiness=ready) as (voice, agent):
            assert (await voice.hear("here"))[0]["why"] == "power"
            assert (await voice.offer(device_fleet.private_task()))["accepted"]
            assert (await voice.round(1))[0].error == "unavailable"
            battery[0] = False
            agent.changed()
            assert (await voice.hear("here"))[0]["available"]
            succeeded(await voice.round(2))

    asyncio.run(main())
    assert site.charges() == 1


def test_once_ends_with_the_first_run_that_is_over(site):
    async def main():
        async with conversation(site, once=True) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            await voice.end(run=99)  # a run that it has nothing to do with
            succeeded(await voice.round(1))
            assert not agent._stop.is_set()
            await voice.end()
            async with asyncio.timeout(device_fleet.PATIENCE_S):
                await agent._stop.wait()

    asyncio.run(main())


def test_an_idle_training_process_is_ended_and_comes_back_with_its_state(site):
    async def main():
        async with conversation(site, idle_s=0.3) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            succeeded(await voice.round(1))
            await until(lambda: not processes(agent))
            succeeded(await voice.round(2))

    asyncio.run(main())
    assert site.charges() == 2


def test_the_training_process_ends_with_the_agent(site):
    async def main():
        async with conversation(site) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            succeeded(await voice.round(1))
            (pid,) = processes(agent)
            os.kill(pid, signal.SIGINT)  # Ctrl-C reaches it too: it is the agent that ends it
            succeeded(await voice.round(2))
            assert processes(agent) == [pid]
        assert not is_there(pid)

    asyncio.run(main())


def test_runs_whose_end_was_missed_give_way_to_new_ones_after_a_day(site):
    """A device that was away when its runs ended would else decline everything as busy from the eighth on."""

    async def main():
        async with conversation(site) as (voice, agent):
            for run in range(journal_module.MAX_RUNS):
                assert (await voice.offer(device_fleet.private_task(), run=100 + run))["accepted"]
            assert await voice.offer(device_fleet.private_task(), run=200) == {
                "run": 200,
                "accepted": False,
                "why": "busy",
            }
            long_ago = time.time() - agent_module.STALE_S - 1
            agent._journal.receive(Waiting(103, "m", "train", 1, long_ago, (b"",)))
            agent._journal.receive(Waiting(104, "m", "train", 1, time.time(), (b"",)))
            assert (await voice.offer(device_fleet.private_task(), run=200))["accepted"]
            runs = {kept.run for kept in agent._journal.runs()}
            assert runs == {*range(100, 108), 200} - {103} == set(agent._works)


def test_the_training_process_is_started_when_a_run_is_accepted_and_only_the_first_one(site):
    async def main():
        async with conversation(site) as (voice, agent):
            await voice.offer(device_fleet.private_task())
            assert [work.has_process for work, _ in agent._works.values()] == [True]
            await voice.offer(device_fleet.private_task(name="other"), run=8)
            assert [work.has_process for work, _ in agent._works.values()] == [True, False]

    asyncio.run(main())
