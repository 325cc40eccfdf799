"""A repository and devices with installers in a swarm, over folders, with a manual clock."""

from itertools import pairwise

from registry_worlds import World
from swarm_worlds import CHUNK, Device, Net, Origin

SIZE = 3 * CHUNK + 1000
"""Four chunks."""


class Mesh:
    """An origin and devices, linked as a test wants them."""

    def __init__(self, folder, names, seed=1, settings=None):
        self.world, self.net, self.settings = World(folder), Net(seed), settings
        self.origin = self.net.nodes["origin"] = Origin(self.world.repository, seed, settings)
        self.devices = {}
        for name in names:
            self.start(name)

    def start(self, name, **options):
        device = Device(self.world, name, name, self.net.now, settings=self.settings, **options)
        self.devices[name] = self.net.nodes[name] = device
        self.net.carry(name, [])

    def stop(self, name):
        self.net.crash(name)
        self.devices.pop(name).installer.close()

    def close(self):
        for device in self.devices.values():
            device.installer.close()

    def line(self, *names):
        for one, other in pairwise(names):
            self.net.link(one, other)

    def clique(self, *names):
        for place, one in enumerate(names):
            for other in names[place + 1 :]:
                self.net.link(one, other)

    def publish(self, data, **options):
        self.world.publish(data, **options)
        self.net.carry("origin", self.origin.news(self.net.now))

    def blob(self):
        """The newest version's first variant."""
        versions = self.world.repository.versions()
        return versions[-1].manifest.variants[0].blob if versions else None

    def given(self):
        return self.origin.given.total() + sum(device.swarm.given.total() for device in self.devices.values())

    def pointers(self):
        return {device.held.pointer for device in self.devices.values()}

    def all_run(self, data, within=120, names=None):
        """Whether all of these run the model in time."""
        chosen = [self.devices[name] for name in names or self.devices]

        def done():
            loaded = [device.installer.slots.load() for device in chosen]
            return all(one is not None and one.data == data for one in loaded)

        end = self.net.now + within
        while not done():
            before = [device.version for device in chosen]
            changed = self.net.until(
                lambda before=before: [one.version for one in chosen] != before, end - self.net.now
            )
            if not changed:
                return done()
        return True
