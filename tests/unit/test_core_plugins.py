import pytest

from fedmesh import plugins
from fedmesh.errors import ConfigError


def test_what_ships_is_found():
    assert {"fedavg"} <= set(plugins.available(plugins.STRATEGIES))
    assert {"vision", "wearable"} <= set(plugins.available(plugins.CLIENTS))
    assert {"digits_cnn", "lenet", "fashion_cnn", "har_cnn"} <= set(plugins.available(plugins.MODELS))


@pytest.mark.parametrize("group", [plugins.STRATEGIES, plugins.CLIENTS, plugins.MODELS])
def test_everything_that_is_listed_can_be_loaded(group):
    for name in plugins.available(group):
        assert callable(plugins.load(group, name))


def test_a_wrong_name_is_answered_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"'fedavgg' is not one of the strategies installed: .*fedavg"):
        plugins.load(plugins.STRATEGIES, "fedavgg")
