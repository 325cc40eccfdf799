"""A device that insists on privacy, in a conversation over a hostile broker, its refusals under a watch."""

from device_fleet import Site, conversation, enrolled
from hostile import HostileBroker

OTHER = "device-2"


def attacked(folder):
    """The site of one that insists on privacy, beside a member called `OTHER`."""
    made = Site(folder)
    other = made.other = enrolled(made.mesh, OTHER)
    roster, revocations = made.mesh.issuer.lists(made.mesh.begun)
    for member in (made.coordinator, made.membership, other):
        member.accept(made.mesh.begun, roster=roster, revocations=revocations)
    made.write(privacy={"required": True})
    return made


def conversing(site, watch, broker=None):
    """The coordinator's voice and the agent of the site, as `conversation` has them."""
    return conversation(site, broker=broker or HostileBroker(), events=watch.observer.events)
