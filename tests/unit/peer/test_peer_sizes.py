"""How long what a run is about may be: said before it begins, with what to do."""

from types import SimpleNamespace

import pytest

from fedmesh.errors import ConfigError
from fedmesh.peer.limits import LEAST_BYTES, MOST_MB, limits_for
from fedmesh.peer.sizes import check_blobs, check_input, input_bytes
from fedmesh.types import Layout


def kit(parameters, *, bits=8, weight_cap=1):
    """Of a run, as far as its inputs' length hangs on it."""
    task = SimpleNamespace(
        session_name="digits", bits=bits, weight_cap=weight_cap, reported=(), privacy=None, summed=None
    )
    return SimpleNamespace(layout=Layout(("w",), ((parameters,),)), read_task=lambda: task)


def test_an_input_has_as_many_bits_as_the_sum_takes():
    room = 1 << 20
    assert input_bytes(kit(8_000), 4) - room in range(10_000, 12_500)  # 10 to 12 bits
    assert input_bytes(kit(8_000), 128) > input_bytes(kit(8_000), 4)
    assert input_bytes(kit(8_000, weight_cap=100), 4) > input_bytes(kit(8_000), 4)


def test_eleven_million_parameters_fit_and_what_does_not_is_said_with_what_to_do():
    for bits in (8, 16):
        check_input(kit(11_000_000, bits=bits), 50)
    check_blobs(model=4 * 11_000_000, state=8 * 11_000_000)
    with pytest.raises(ConfigError, match=r"has \d+\.\d MB \(60,000,000 parameters at 18 .*, a message 64 MB .*delta"):
        check_input(kit(60_000_000, bits=14), 8)
    with pytest.raises(ConfigError, match=r"a message 16 MB at most: raise .limits. message_mb"):
        check_input(kit(11_000_000, bits=16), 8, 16)
    with pytest.raises(ConfigError, match=r"the state of the strategy has 190.7 MB, members fetch 128.0 MB"):
        check_blobs(model=100_000_000, state=200_000_000)


def test_a_member_holds_a_few_of_the_longest_and_always_takes_a_list():
    limits = limits_for(256)
    assert limits.message_bytes >> 20 == MOST_MB
    assert limits.incoming_bytes == limits.outgoing_bytes == 4 * limits.message_bytes
    assert LEAST_BYTES < limits_for(1).message_bytes < limits_for(16).message_bytes < limits.message_bytes
    check_input(kit(5_000_000, bits=8), 4, 1)  # it has room for a list, so for this
