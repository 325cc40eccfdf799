"""The process in which a member trains: it works rounds out by itself, and refuses what does not fit them."""

import asyncio
import hashlib
import secrets
import time

import numpy as np
import pytest
from mesh_nodes import Nodes
from small_runs import small_digits

from fedmesh.client.averaging import AveragingTerms, rule_of
from fedmesh.client.enrolling import begin_enrolment
from fedmesh.configuration.section import read_tables
from fedmesh.errors import RoundError
from fedmesh.federation.sums import sums_of
from fedmesh.fleet.kit import Kit
from fedmesh.fleet.mesh_child import MeshBench
from fedmesh.fleet.mesh_start import begin
from fedmesh.fleet.training import Training
from fedmesh.peer.workshop import Workshop
from fedmesh.privacy import loss
from fedmesh.privacy.ledger_file import read_ledger
from fedmesh.secagg import Aggregator, Identity, Roster
from fedmesh.secagg.messages import Kind, read

NAMES = ("anna", "bert", "cleo", "dora")
OTHER = bytes(32)


class Shop:
    """A member's process, and what its run begins with; the other members are only on the roster."""

    def __init__(self, folder, *, scenario=None, **limits):
        nodes = Nodes(folder, *NAMES[1:])
        token = nodes.mesh.issuer.token("anna", nodes.mesh.begun, ttl_s=1e6)
        enrolment, hello = begin_enrolment(folder / "anna", token), nodes.mesh.issuer.hello()
        reply = nodes.mesh.issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, time.time())
        self.membership = enrolment.finish(reply, time.time())
        self.begun = begin(scenario or small_digits(rounds=2), run=7, members=4, folder=folder)
        self.kit = Kit.from_bytes(self.begun.kit)
        self.task = self.kit.read_task()
        wanted = "\n".join(f"{key} = {value}" for key, value in limits.items())
        path = folder / "anna.toml"
        path.write_text(
            '[identity]\nfolder = "anna"\n[mesh]\nfolder = "state"\n[mesh.seeds]\nbert = ["127.0.0.1:9"]\n'
            f'[data]\nkind = "dataset"\nname = "digits"\npartition = 0\nof = 4\n[limits]\n{wanted}\n'
        )
        (folder / "state").mkdir()
        self.ledger = folder / "state/ledgers/anna.ledger"
        arrays = zip(self.kit.layout.names, self.kit.layout.shapes, strict=True)
        spec = {
            "run": 7,
            "members": list(NAMES),
            "client": self.kit.client,
            "scenario": dict(self.kit.scenario),
            "layout": [[name, list(shape)] for name, shape in arrays],
            "tables": read_tables(path),
            "folder": str(folder),
            "memory_mb": None,
            "nice": 0,
        }
        self.spec = spec
        training = Training(
            spec, (self.kit.task, self.kit.features), max_bytes=1 << 26, module="fedmesh.fleet.mesh_child"
        )
        self.shop = Workshop(training, timeout_s=300.0)

    async def prepared(self):
        return await self.shop.prepare(1, self.begun.model, self.begun.state)

    def header(self, belongs, **changes):
        attempt = changes.pop("attempt", 0)
        settings = sums_of(changes.pop("task", self.task))
        return settings.header(1, attempt, NAMES, self.kit.layout, belongs, fewest=4)

    def aggregator(self, header):
        return Aggregator(header, Identity(self.membership.signing_key()), Roster(self.membership.roster.keys))


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.shop.close()


def test_a_round_is_worked_out_from_what_is_certified_and_a_session_of_another_model_is_refused(shop):
    async def story():
        with pytest.raises(RoundError, match="not prepared"):
            await shop.shop.step(1, "advertise", b"", b"")
        facts = await shop.prepared()
        assert facts.model == hashlib.sha256(shop.begun.model).digest()
        assert facts.affords
        good = (facts.model, facts.scales)
        other = shop.header(good, task=shop.task.of_run(secrets.randbits(60)))
        with pytest.raises(RoundError, match="advertise"):
            await shop.shop.step(1, "advertise", other.to_bytes(), b"")
        answer, state = await shop.shop.step(1, "advertise", shop.header(good).to_bytes(), b"")
        assert read(answer, max_bytes=1 << 20).kind is Kind.ADVERTISE
        assert state
        pid = shop.shop.pid
        shop.shop.close()  # as if it was killed: the next job gets another process, which knows the round
        answer, _ = await shop.shop.step(1, "advertise", shop.header(good, attempt=1).to_bytes(), state)
        assert read(answer, max_bytes=1 << 20).kind is Kind.ADVERTISE
        assert shop.shop.pid != pid
        assert not shop.ledger.exists()  # nothing was trained, and nothing paid

    asyncio.run(story())


def test_a_sum_is_applied_from_the_rounds_start_however_often(shop):
    async def story():
        await shop.prepared()
        total = np.zeros(sums_of(shop.task).length(shop.kit.layout), "<i8")
        total[: shop.kit.layout.size] = np.arange(shop.kit.layout.size) % 7 - 3
        first = await shop.shop.apply(1, total.tobytes(), 4)
        again = await shop.shop.apply(1, total.tobytes(), 4)
        assert first == again
        assert first.model != shop.begun.model
        assert first.epsilon > 0
        still = await shop.shop.apply(1, np.zeros_like(total).tobytes(), 4)
        assert still.model == shop.begun.model

    asyncio.run(story())


def test_what_the_first_figure_of_privacy_costs_is_paid_before_there_is_a_round(shop):
    for memo in (loss._epsilon, loss._newest, loss._distribution):  # whatever this process has worked out before
        memo.cache_clear()
    MeshBench.of(shop.spec, shop.kit.task, shop.kit.features)
    assert loss._distribution.cache_info().currsize == 1


def test_more_than_the_operator_lends_is_not_begun(tmp_path):
    made = Shop(tmp_path, max_parameters=10)
    try:
        with pytest.raises(RoundError, match="limits"):
            asyncio.run(made.prepared())
    finally:
        made.shop.close()


def averaging(folder, **overrides):
    settings = {"strategy__name": "gossip", "strategy__options": {"group": 4}, **overrides}
    return Shop(folder, scenario=small_digits(rounds=2, **settings))


@pytest.mark.parametrize("mode", [pytest.param("local", marks=pytest.mark.exhaustive), "shared"])
def test_a_step_of_averaging_is_paid_for_and_trained_here(tmp_path, mode):
    made = averaging(tmp_path, privacy__mode=mode)
    terms = AveragingTerms.of(made.kit.scenario["strategy"]["options"])
    start = terms.start(np.frombuffer(made.begun.model, "<f4"))
    rule = rule_of(made.task, terms.grid, len(start))

    async def story():
        vector, left_out = await made.shop.average(1, start.astype("<i8").tobytes())
        vector, left_out = np.frombuffer(vector, "<i8"), np.frombuffer(left_out, "<i8")
        assert len(vector) == rule.length
        assert (left_out == start).all() == (mode == "shared")  # whose gradients are nowhere but in the sum
        assert (vector[: len(start)] == left_out).all()
        with pytest.raises(RoundError, match="average"):
            await made.shop.average(2, bytes(80))

    try:
        asyncio.run(story())
        (charge,) = read_ledger(made.ledger)[1].charges
        assert charge.event.label in {"digits/round-1", "digits/step-1"}
    finally:
        made.shop.close()
