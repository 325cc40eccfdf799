"""Many schedules of loss, crashes, partitions, churn and liars: exact bytes at last, and wrong ones never."""

import hashlib
import random

import pytest
from swarm_liars import Claiming, Liar, bragging, honest, mute, poison, short
from swarm_worlds import CHUNK, Memory, Net, blob_of, model, swarm_of

from fedmesh.mesh.swarm import Settings, Swarm

LIARS = (poison, mute, bragging, short, honest)
QUICK = Settings(request_s=5.0, snub_s=10.0, ban_s=200.0, interest_s=2.0)
SIZE = 11_000_000


class Story:
    """One seed: an origin, peers, perhaps liars, a bad minute, and then links that hold."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.data = model(seed, rng.randrange(2 * CHUNK, 6 * CHUNK))
        self.blob = blob_of(self.data)
        bad = rng.random() < 0.6
        self.net = Net(seed, loss=rng.uniform(0, 0.1) if bad else 0.0, duplicate=rng.uniform(0, 0.1) if bad else 0.0)
        self.disks = {f"p{number}": self._empty() for number in range(rng.randint(2, 4))}
        self.disks["origin"] = Memory(self.data)
        self.honest = list(self.disks)
        for name in self.honest:
            self.start(name)
        self.liars = [f"liar{number}" for number in range(rng.choice((0, 0, 1, 2)))]
        for name in self.liars:
            twist = rng.choice(LIARS)
            holdings = Claiming(self.data) if twist is honest else Memory(self.data)
            self.net.nodes[name] = Liar(holdings, random.Random(rng.random()), twist)
        self.names = [*self.honest, *self.liars]

    def _empty(self):
        made = Memory()
        made.blobs[self.blob.sha256] = self.blob
        return made

    def start(self, name):
        chance = random.Random(self.rng.random())
        self.net.nodes[name] = Swarm(self.disks[name], rng=chance, settings=QUICK, origin=name == "origin")
        if name != "origin":
            self.net.carry(name, self.net.nodes[name].want_blob(self.blob, self.net.now))

    def storm(self):
        net, rng = self.net, self.rng
        for _ in range(rng.randint(3, 25)):
            one, other = rng.sample(self.names, 2)
            match rng.randrange(6):
                case 0 | 1 | 2:
                    net.link(one, other)
                case 3:
                    net.unlink(one, other)
                case 4 if one in self.honest and one in net.nodes:
                    net.crash(one)
                case 5 if one not in net.nodes:
                    self.start(one)
            net.run(net.now + rng.choice((0.01, 0.05, 0.3, 2.0)))

    def calm(self):
        for name in self.honest:
            if name not in self.net.nodes:
                self.start(name)
        order = ["origin", *self.rng.sample(self.honest[:-1], len(self.honest) - 1)]
        for place, name in enumerate(order[1:], 1):
            self.net.link(name, self.rng.choice(order[:place]))
        for liar in self.liars:
            self.net.link(liar, self.rng.choice(self.honest))

    def done(self):
        return all(self.net.nodes[name].is_complete for name in self.honest if name != "origin")

    def check_safety(self):
        for name, disk in self.disks.items():
            assert all(hashlib.sha256(data).digest() == digest for digest, data in disk.chunks.items()), name
            known = self.net.nodes[name].neighbours
            assert not any(known.is_banned(other, self.net.now) for other in self.honest), (name, known.counts)

    def play(self):
        self.storm()
        self.calm()
        assert self.net.until(self.done, 300), {name: self.net.nodes[name].counts for name in self.honest}
        self.check_safety()
        assert all(disk.joined(self.blob) == self.data for disk in self.disks.values())


@pytest.mark.parametrize("block", range(8))
def test_whoever_is_linked_long_enough_gets_the_exact_bytes(block):
    for seed in range(25 * block, 25 * block + 25):
        Story(seed).play()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_thousands_of_schedules(block):
    for seed in range(10_000 + 100 * block, 10_100 + 100 * block):
        Story(seed).play()


BEYOND = pytest.param(None, id="publisher on a LAN", marks=[pytest.mark.exhaustive, pytest.mark.slow])


@pytest.mark.parametrize("publisher_rate", [pytest.param(8e6, id="publisher behind the same link"), BEYOND])
def test_eleven_megabytes_reach_eight_peers_in_little_more_than_one_links_time(publisher_rate):
    net = Net(1)
    swarm_of(net, model(1, SIZE), peers=8, publisher_rate=publisher_rate, rate=8e6)
    peers = [net.nodes[f"p{number}"] for number in range(8)]
    assert net.until(lambda: all(peer.is_complete for peer in peers), 60)
    took, copies = net.now / (SIZE * 8 / 8e6), net.nodes["origin"].given.total() / SIZE
    assert took <= 1.25, f"{took:.2f} of one link's time"
    assert copies <= 2.5, f"{copies:.2f} copies by the publisher"
    assert sum(peer.wasted for peer in peers) <= 0.02 * SIZE
    assert sum(net.sent_bytes.values()) - sum(net.pieces.values()) < 0.02 * 8 * SIZE
