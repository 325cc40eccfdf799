"""Installers over a swarm in bad weather: crashes, partitions, forgers; the newest version runs everywhere at last."""

import random

import pytest
from registry_worlds import moved, weights
from swarm_liars import Forger, flipped
from swarm_meshes import Mesh
from swarm_worlds import CHUNK, Origin

from fedmesh.mesh.swarm import Settings
from fedmesh.registry import Pointer

QUICK = Settings(request_s=5.0, snub_s=10.0, ban_s=100.0, interest_s=2.0, announce_s=5.0, delta_s=5.0)
FORGERIES = (
    lambda name, data: flipped(data) if "metadata/" in name else data,
    lambda name, data: flipped(data) if "chunks/" in name else data,
    lambda name, data: flipped(data) if "targets/" in name else data,
    lambda name, data: data * 2,
    lambda name, data: data,
)


class Story:
    """One seed."""

    def __init__(self, folder, seed):
        self.rng = rng = random.Random(seed)
        self.mesh = Mesh(folder, ["anna", "bert", "cleo"], seed, QUICK)
        self.first = weights(seed, rng.randrange(CHUNK, 4 * CHUNK))
        self.second = rng.choice([moved(self.first), weights(seed + 1, 2 * CHUNK)])
        net = self.mesh.net
        net.loss, net.duplicate = rng.choice([(0.0, 0.0), (0.05, 0.05)])
        self.names = ["origin", "anna", "bert", "cleo", "mallory"]
        self.forger = Origin(self.mesh.world.repository, seed + 1, QUICK)
        net.nodes["mallory"] = self.forger
        self.down = set()

    def forge(self):
        self.forger.published.refresh()
        pointer = self.rng.choice([None, Pointer(self.rng.randrange(1, 50), bytes(32), 1).encode()])
        Forger(self.forger, self.rng.choice(FORGERIES), pointer)

    def storm(self, steps):
        mesh, rng = self.mesh, self.rng
        for _ in range(steps):
            one, other = rng.sample(self.names, 2)
            match rng.randrange(5):
                case 0 | 1 | 2:
                    mesh.net.link(one, other)
                case 3:
                    mesh.net.unlink(one, other)
                case 4 if one in mesh.devices:
                    mesh.stop(one)
                    self.down.add(one)
                case 4 if one in self.down:
                    mesh.start(one)
                    self.down.discard(one)
            mesh.net.run(mesh.net.now + rng.choice((0.05, 0.3, 3.0)))
            self.check()

    def check(self):
        for device in self.mesh.devices.values():
            loaded = device.installer.slots.load()
            assert loaded is None or loaded.data in {self.first, self.second}

    def play(self):
        mesh = self.mesh
        mesh.publish(self.first)
        self.forge()
        self.storm(10)
        mesh.publish(self.second)
        self.storm(10)
        for name in sorted(self.down):
            mesh.start(name)
        order = ["origin", *self.rng.sample(["anna", "bert", "cleo"], 3)]
        for place, name in enumerate(order[1:], 1):
            mesh.net.link(name, self.rng.choice(order[:place]))
        assert mesh.all_run(self.second, within=900), [
            (name, device.version, device.errors, device.swarm.counts) for name, device in mesh.devices.items()
        ]
        for name in mesh.devices:
            for device in mesh.devices.values():
                assert not device.swarm.neighbours.is_banned(name, mesh.net.now)
        mesh.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_newest_version_runs_everywhere_at_last(tmp_path, seed):
    Story(tmp_path, seed).play()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_the_newest_version_runs_everywhere_at_last_in_many_stories(tmp_path, seed):
    Story(tmp_path, seed).play()
