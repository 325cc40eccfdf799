import pytest

from fedmesh.errors import ConfigError
from fedmesh.mesh.membership import DurableIncarnations, Settings
from fedmesh.wire import dumps


def test_they_grow_over_restarts_at_any_moment(tmp_path):
    given = []
    for lives in range(5):
        numbers = DurableIncarnations(tmp_path / "incarnation")
        given += [numbers.beyond(0) for _ in range(1 + 40 * lives)]
    assert given == sorted(set(given))


def test_a_number_is_durable_before_it_is_used_and_a_block_is_written_once(tmp_path):
    path = tmp_path / "incarnation"
    numbers = DurableIncarnations(path)
    numbers.beyond(0)
    before = path.read_bytes()
    first_block = [numbers.beyond(0) for _ in range(63)]
    assert path.read_bytes() == before
    assert DurableIncarnations(path).beyond(0) > first_block[-1]
    numbers.beyond(0)
    assert path.read_bytes() != before


def test_a_number_is_beyond_what_others_remember(tmp_path):
    numbers = DurableIncarnations(tmp_path / "incarnation")
    assert numbers.beyond(1000) == 1001
    assert numbers.beyond(3) == 1002
    assert DurableIncarnations(tmp_path / "incarnation").beyond(0) > 1002


def test_a_number_that_cannot_be_kept_is_not_given(tmp_path):
    numbers = DurableIncarnations(tmp_path / "none" / "incarnation")
    with pytest.raises(ConfigError, match="cannot write"):
        numbers.beyond(0)
    with pytest.raises(ConfigError, match="beyond the largest"):
        DurableIncarnations(tmp_path / "incarnation").beyond((1 << 62) - 2)


@pytest.mark.parametrize("content", [b"", b"\x00", dumps(["fedmesh-incarnation/1", 0]), dumps(["other", 1]), dumps([])])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "incarnation").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged: remove it"):
        DurableIncarnations(tmp_path / "incarnation")


def test_a_suspicion_is_shorter_the_more_share_it():
    settings = Settings()
    times = [settings.suspicion_s(50, confirmed) for confirmed in range(6)]
    assert times[0] == pytest.approx(6 * times[3])
    assert times == sorted(times, reverse=True)
    assert times[3] == times[5] == pytest.approx(5 * 1.699, rel=1e-3)
    assert settings.suspicion_s(2, 0) == 5.0  # nobody else is there who could confirm


@pytest.mark.parametrize(
    "wrong", [{"probe_timeout_s": 1.0}, {"indirect": 0}, {"sync_s": 0.0}, {"suspicion_beta": 0.5}, {"health_limit": -1}]
)
def test_settings_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)
