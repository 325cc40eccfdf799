"""A device that ends after it ran a step of secure aggregation, before it kept what came of it, and runs it again.

What the steps besides training may do, see docs/device.md: nothing leaves twice, and the round goes on.
"""

import heads
import pytest
from flwr.app import Message
from secure_flower import SecureServer

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.lite import LiteTrainer
from fedmesh.flower import InlineFleet
from fedmesh.flower.envelope import unfold
from fedmesh.flower.identity import node_id_of
from fedmesh.flower.secure import order_in
from fedmesh_clients import lite
from fedmesh_clients.secure import terms_of

DEVICES, VICTIM = 5, 2
TASK = heads.task(codec="integer", secure_aggregation=True, keyed_noise_seed=None)


class Forgetful(InlineFleet):
    """Loses the reply and the state of one device's `step`, and runs it again from the state before."""

    step = ""
    lost: Message | None = None

    def collect(self, timeout_s):
        if self._queue:
            node_id, envelope = self._queue[0]
            order = order_in(unfold(envelope).content)
            if order is not None and node_id == node_id_of(VICTIM) and order.step == self.step:
                node = self._node(node_id)
                before = node.state()
                self.lost = node.handle(unfold(envelope))
                node.restore(before)
        return super().collect(timeout_s)


@pytest.mark.parametrize(
    ("step", "refused", "survives"),
    [
        ("advertise", True, False),  # the store has this attempt already: the device joins the next one
        ("share", False, True),  # new shares of a new seed; the first were never sent
        ("sign", False, True),  # the store gives the signature that it gave before
        ("unmask", True, True),  # the shares leave once: the threshold bears it
    ],
)
def test_a_step_that_is_run_again(tmp_path, step, refused, survives):
    app = lite.build(TASK, heads.examples, homes=SimulatedHomes(None, tmp_path / "identities"))
    fleet = Forgetful(app, DEVICES)
    fleet.step = step
    server = SecureServer(fleet, tmp_path / "identities", terms_of(TASK, LiteTrainer(TASK).layout), [0.5])
    result = server.round(1, heads.start())
    assert fleet.lost is not None
    assert not fleet.lost.has_error()
    assert (VICTIM in server.refusals[step]) == refused
    if refused:
        assert "SecAggError" in server.refusals[step][VICTIM]
    assert (f"device-{VICTIM}" in result.survivors) == survives
    assert len(result.survivors) == DEVICES - (not survives)
    fleet.step = ""
    assert len(server.round(2, heads.start()).survivors) == DEVICES


def test_a_training_that_is_run_again_sends_nothing_again(tmp_path):
    """The journal keeps it from being run at all; if it did not, the store would: one masked input leaves a session."""
    app = lite.build(TASK, heads.examples, homes=SimulatedHomes(None, tmp_path / "identities"))
    fleet = Forgetful(app, DEVICES)
    fleet.step = "train"
    server = SecureServer(fleet, tmp_path / "identities", terms_of(TASK, LiteTrainer(TASK).layout), [0.5])
    result = server.round(1, heads.start())
    assert "SecAggError" in server.refusals["train"][VICTIM]
    assert f"device-{VICTIM}" not in result.survivors
