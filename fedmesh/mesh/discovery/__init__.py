"""Finding members: configured seeds, addresses from before, and multicast DNS. All of it hints, none of it believed.

Who is at an address says the certificate there, and who is a member the roster (docs/mesh-discovery.md). zeroconf is
loaded when `Discovery` is started with `MulticastOptions`, and not before.
"""

from fedmesh.mesh.discovery.addresses import Address, address_in, seed_in, text_of
from fedmesh.mesh.discovery.book import Book
from fedmesh.mesh.discovery.candidates import Candidates, Here
from fedmesh.mesh.discovery.finder import Discovery
from fedmesh.mesh.discovery.hints import Attempt, Hint, Source
from fedmesh.mesh.discovery.identifying import identify
from fedmesh.mesh.discovery.interfaces import Surroundings, own_addresses
from fedmesh.mesh.discovery.multicast_options import MulticastOptions
from fedmesh.mesh.discovery.settings import Settings

__all__ = [
    "Address",
    "Attempt",
    "Book",
    "Candidates",
    "Discovery",
    "Here",
    "Hint",
    "MulticastOptions",
    "Settings",
    "Source",
    "Surroundings",
    "address_in",
    "identify",
    "own_addresses",
    "seed_in",
    "text_of",
]
