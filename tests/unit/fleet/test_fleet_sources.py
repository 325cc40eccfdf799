"""Where a device's examples come from."""

import os

import numpy as np
import pytest

from fedmesh.configuration.learner import DataSetData, HookData, NpzData
from fedmesh.errors import ConfigError, DataError
from fedmesh.features import fit
from fedmesh.federation import datasets, scenarios
from fedmesh.fleet.sources import Source

X = np.random.default_rng(1).standard_normal((7, 1, 8, 8)).astype(np.float32)
Y = np.arange(7)


def written(path, **arrays):
    np.savez(path, **arrays)
    return Source(NpzData(path=path))


def test_a_file(tmp_path):
    source = written(tmp_path / "mine.npz", x=X, y=Y)
    assert np.array_equal(source(0).x, X)
    assert np.array_equal(source(17).y, Y)
    assert source(0) is source(1)  # read once


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "lacks y"),
        ({"x": X.astype(np.float64), "y": Y}, "float64"),
        ({"x": X, "y": Y.astype(np.int32)}, "int32"),
        ({"x": X, "y": Y[:6]}, r"int64\[6\]"),
        ({"x": np.full_like(X, np.nan), "y": Y}, "NaN"),
        ({"x": np.array([{}], dtype=object), "y": Y}, "cannot be read"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path, arrays, said):
    with pytest.raises(DataError, match=said):
        written(tmp_path / "mine.npz", **arrays)()


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        Source(NpzData(path=tmp_path / "none.npz"))()


@pytest.mark.parametrize("of", [10, 6])
def test_a_part_of_a_data_set_is_the_one_of_a_simulated_device(of):
    scenario = scenarios.load("digits", {"partition.clients": of})
    dealt = datasets.split_as(datasets.load("digits"), scenario)
    for partition in (0, of - 1):
        mine = Source(DataSetData(name="digits", partition=partition, of=of))()
        assert np.array_equal(mine.x, dealt.devices[partition].x)
        assert np.array_equal(mine.y, dealt.devices[partition].y)


def test_a_hook(tmp_path, monkeypatch):
    name = f"my_data_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "def pair():\n    return np.ones((3, 2), np.float32), np.zeros(3, np.int64)\n"
        "def wrong():\n    return 'nothing'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert len(Source(HookData(kind="hook", function=f"{name}:pair"))()) == 3
    with pytest.raises(DataError, match="returned a str"):
        Source(HookData(kind="hook", function=f"{name}:wrong"))()
    for missing in (f"{name}:none", "no_such_module:load"):
        with pytest.raises(ConfigError, match="is not there"):
            Source(HookData(kind="hook", function=missing))()


def test_features_are_applied(tmp_path):
    public = datasets.load("digits")
    features = fit("pixels", datasets.split_as(public, scenarios.load("digits")).public, components=4, bias=1.0)
    np.savez(tmp_path / "mine.npz", x=X, y=Y)
    mapped = Source(NpzData(path=tmp_path / "mine.npz"), features)()
    assert mapped.x.shape == (7, 5)
    assert np.array_equal(mapped.x, features(X))
