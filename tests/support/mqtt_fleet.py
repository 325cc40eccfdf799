"""What tests over a real broker share: whether there is one, and a proxy that can be cut, slowed and made to lie."""

import os

import pytest

from fedmesh.testing.loopback_broker import LoopbackBroker, SmallCa, find_mosquitto
from fedmesh.testing.proxy import Proxy

__all__ = ["LoopbackBroker", "Proxy", "SmallCa", "require_mosquitto"]


def require_mosquitto() -> None:
    """Without one the tests of a module are skipped, with one loud line, or fail where CI runs."""
    if find_mosquitto() is None:
        text = "NO MOSQUITTO: nothing over a real broker is tested (apt-get install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text, allow_module_level=True)
