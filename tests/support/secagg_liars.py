"""A session of seven devices, the last of which lies to an honest aggregator with its real key."""

import pytest
from secagg_adversary import Adversary, forge
from secagg_sessions import Federation, names

from fedmesh import wire
from fedmesh.secagg import SecAggError
from fedmesh.secagg.messages import Kind

SEVEN = names(7)
LIAR = SEVEN[6]


def before(kind, **changes):
    """A session in which the devices' messages of this kind are under way; none is heard yet."""
    adversary = Adversary(Federation.of(7, **changes))
    while _kind(adversary) is not kind:
        adversary.deliver(adversary.next_down())
    return adversary


def _kind(adversary):
    return Kind(wire.loads(adversary.up[0][1], max_bytes=1 << 24)[0])


def heard(adversary, *, instead):
    """The aggregator hears the liar's message instead of its honest one, and refuses it; then all the others."""
    with pytest.raises(SecAggError) as caught:
        adversary.aggregator.handle(LIAR, instead)
    assert LIAR in adversary.aggregator.awaiting
    return caught.value.code


def goes_on_without_the_liar(adversary):
    """The honest ones come to the end, with the right sum of those who survived."""
    adversary.up = [(name, message) for name, message in adversary.up if name != LIAR]
    adversary.devices = {name: device for name, device in adversary.devices.items() if name != LIAR}
    while adversary.aggregator.result is None:
        down = adversary.next_down()
        adversary.deliver({name: message for name, message in down.items() if name != LIAR})
    result = adversary.aggregator.result
    assert [*result.total.tolist(), result.weight] == adversary.federation.sum_over(result.survivors)
    return result


def lie(adversary, kind, body):
    """A message of the liar's, signed as it should be."""
    return forge(adversary.federation, kind, body, sender=LIAR)
