"""A real broker, for the modules that ask for one."""

import pytest
from mqtt_fleet import LoopbackBroker, SmallCa


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return SmallCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def broker(tmp_path, ca):
    broker = LoopbackBroker(tmp_path / "broker", ca)
    yield broker
    broker.kill()
