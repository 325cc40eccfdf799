"""Sessions of secure aggregation that a hostile coordinator leads, with a real agent among their members."""

import asyncio
import queue
from concurrent.futures import ThreadPoolExecutor

import heads
import pytest
from device_fleet import PATIENCE_S, RUN, Site, conversation, enrolled
from flwr.app import Message
from hostile import HostileBroker, Watch
from secure_flower import SecureServer

from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.enrolling import pinned_roster
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.policy import budgets_of, floor_of
from fedmesh.configuration import ClientConfig
from fedmesh.errors import SecAggError
from fedmesh.fleet.protocol import Instruct, Reply
from fedmesh.flower import InlineFleet
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import node_id_of as numbered
from fedmesh.flower.node import error_reply
from fedmesh.flower.secure import Order
from fedmesh.secagg import Identity
from fedmesh_clients import lite
from fedmesh_clients.secure import terms_of

DEVICES, ROUND = 5, 1
TASK = heads.summed_task("example").as_deployed()


class Street:
    """Enrolled homes beside each other, told apart by number, for one client app in this process."""

    simulated = False

    def __init__(self, homes):
        self.homes, self.floor = homes, homes[1].floor

    def check(self, name, *, private, secure):
        self.homes[1].check(name, private=private, secure=secure)

    def member(self, device):
        return self.homes[device].member(device)

    def ledger(self, device, *arguments):
        return self.homes[device].ledger(device, *arguments)


class Mixed(InlineFleet):
    """Device 0 is the agent behind the broker, the others are client apps in this process."""

    def __init__(self, app, voice, loop):
        super().__init__(app, DEVICES)
        self.voice, self.loop, self.answers, self.waits = voice, loop, queue.SimpleQueue(), 0

    def submit(self, message):
        if message.metadata.dst_node_id != numbered(0):
            super().submit(message)
            return
        self.waits += 1
        asyncio.run_coroutine_threadsafe(self.ask(message), self.loop)

    async def ask(self, message):
        envelope = fold(message)
        copy = unfold(Envelope(envelope.meta, tuple(map(bytes, envelope.buffers))))
        copy.metadata.__dict__.update(_dst_node_id=self.voice.site.node_id, _run_id=RUN)
        sent = fold(copy)
        body = Instruct(RUN, copy.metadata.message_id, copy.metadata.message_type, ROUND)
        await self.voice.say(body, sent.meta, *map(bytes, sent.buffers))
        reply, answer = await self.voice.reply()
        assert isinstance(reply, Reply)
        if answer is None:
            answer = error_reply(message, 1, reply.error)
        answer.metadata.__dict__.update(_src_node_id=numbered(0), _run_id=message.metadata.run_id)
        self.answers.put(answer)

    def collect(self, timeout_s):
        found = super().collect(0.0)
        if self.waits and not found:
            try:
                found = [self.answers.get(timeout=timeout_s)]
                self.waits -= 1
            except queue.Empty:
                found = []
        return found


class World:
    """A site whose device is number 0 of five, and what the others are made of."""

    def __init__(self, folder):
        self.site = Site(folder, device_name="device-0")
        self.site.write(privacy={"required": True, "example_epsilon": 100.0}, secure_aggregation={"required": True})
        others = [enrolled(self.site.mesh, f"device-{number}") for number in range(1, DEVICES)]
        self.rogue = enrolled(self.site.mesh, "rogue")
        roster, revocations = self.site.mesh.issuer.lists(self.site.mesh.begun)
        for member in (self.site.coordinator, self.site.membership, *others, self.rogue):
            member.accept(self.site.mesh.begun, roster=roster, revocations=revocations)

    def street(self, leader):
        homes = {}
        for number in range(1, DEVICES):
            tables = {
                "identity": {"folder": f"device-{number}"},
                "broker": {"host": "localhost"},
                "state": {"folder": f"state-{number}"},
                "data": {"kind": "npz", "path": "data.npz"},
                "privacy": {"example_epsilon": 100.0},
            }
            config = ClientConfig.parse(tables, source="a test", folder=self.site.folder)
            config.state.folder.mkdir(exist_ok=True)
            homes[number] = EnrolledHome(
                config.identity.folder, config.state.folder, budgets=budgets_of(config), floor=floor_of(config, leader)
            )
        return Street(homes)

    def play(self, watch, scene, leader="coordinator"):
        """`scene(server)` in a thread, with the agent running; the server is a `SecureServer` under `leader`'s key."""

        async def main():
            broker = HostileBroker()
            async with conversation(self.site, broker=broker, events=watch.observer.events) as (voice, _):
                assert (await voice.offer(TASK)) == {"run": RUN, "accepted": True, "why": ""}
                loop = asyncio.get_running_loop()
                app = lite.build(TASK, heads.examples, homes=self.street(leader))
                member = self.rogue if leader == "rogue" else self.site.coordinator

                def whole():
                    terms = terms_of(TASK, LiteTrainer(TASK).layout)
                    server = SecureServer(Mixed(app, voice, loop), self.site.folder / "simulated", terms, [0.3])
                    server.roster = pinned_roster(self.site.coordinator)
                    server.identity = Identity(member.signing_key())
                    return scene(server)

                with ThreadPoolExecutor(1) as pool:
                    return await asyncio.wait_for(loop.run_in_executor(pool, whole), 2 * PATIENCE_S)

        return asyncio.run(main())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def rounded(server):
    assert server.terms.summed is not None
    return server.round(ROUND, heads.start(), ring_bits=server.terms.summed.bits)


def test_the_agent_is_a_member_like_the_others_and_pays_once(world):
    watch = Watch()
    result = world.play(watch, rounded)
    assert len(result.survivors) == DEVICES
    assert watch.refused("instruction") == {}
    assert world.site.charges() == 1


def test_a_session_that_another_member_leads_is_refused_by_the_agent(world):
    """The others take it, as if they had another coordinator: the one real device says no, and pays nothing."""
    watch = Watch()

    def scene(server):
        try:
            rounded(server)
        except SecAggError as error:
            return server, error
        return server, None

    server, _ = world.play(watch, scene, leader="rogue")
    assert server.refusals["share"][0] == "SecAggError"
    assert watch.refused("instruction") == {("instruction", "identity"): 1}
    assert world.site.charges() == 0


def test_two_models_in_one_round_are_refused_by_who_gets_the_other_one(world):
    """What the session says of its model is one for all: who is sent another one sees it before it trains."""
    watch = Watch()

    def scene(server):
        def tamper(step, device, content):
            if step == "train" and device == 0:
                content["arrays"] = vector_record("model", heads.start(6))

        server.tamper = tamper
        return server, rounded(server)

    server, result = world.play(watch, scene)
    assert 0 in server.refusals["train"]
    assert len(result.survivors) == DEVICES - 1, "the session goes on among those who got the model that it names"
    assert watch.refused("instruction") == {("instruction", "policy"): 1}
    assert world.site.charges() == 0


def test_a_training_outside_of_the_session_is_refused(world):
    watch = Watch()

    def scene(server):
        content = server.content(ROUND, "train", Order("train", message=b"x" * 10), heads.start())
        del content["secagg"]
        replies = list(server.grid.send_and_receive([Message(content, numbered(0), "train")], timeout=60))
        return replies[0]

    reply = world.play(watch, scene)
    assert reply.has_error()
    assert watch.refused("instruction") == {("instruction", "policy"): 1}
    assert world.site.charges() == 0


def test_a_session_below_the_devices_floor_is_refused_before_any_key_is_made(world):
    watch = Watch()

    def scene(server):
        header = server.header(
            ROUND, heads.start(), devices=[0, 1], ring_bits=server.terms.summed.bits, threshold=2, min_cohort=2
        )
        content = server.content(ROUND, "advertise", Order("advertise", header.to_bytes()), heads.start())
        return next(iter(server.exchange("advertise", {"device-0": content}).values()), None), server

    answer, server = world.play(watch, scene)
    assert answer is None
    assert server.refusals["advertise"][0] == "SecAggError"
    assert watch.count("instruction", "policy") == 1
    assert world.site.charges() == 0
