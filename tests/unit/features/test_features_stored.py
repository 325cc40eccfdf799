"""A feature map as a file."""

import hashlib

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.features import fit, load, save
from fedmesh.features.stored import MAX_BYTES, decode, digest, encode
from fedmesh.types import Examples
from fedmesh.wire import dumps, loads


def make(**settings):
    rng = np.random.default_rng(3)
    public = Examples(rng.random((40, 1, 8, 8), np.float32), rng.integers(0, 3, 40))
    return fit("hog", public, components=6, bias=0.3, options={"cell": 4, "upright": False}, **settings)


def sealed(content):
    body = dumps(content)
    return hashlib.sha256(body).digest() + body


def test_a_file_gives_the_same_map_back(tmp_path):
    features = make()
    path = tmp_path / "features.cbor"
    save(features, path)
    again = load(path, sha256=digest(features))
    x = np.random.default_rng(4).random((9, 1, 8, 8), np.float32)
    assert again(x).tobytes() == features(x).tobytes()
    assert (again.name, again.options, again.bias) == ("hog", {"cell": 4, "upright": False}, 0.3)
    assert encode(again) == path.read_bytes() == encode(make())


def test_another_map_than_the_one_pinned_is_refused(tmp_path):
    path = tmp_path / "features.cbor"
    save(make(), path)
    with pytest.raises(ConfigError, match="than the one pinned"):
        load(path, sha256=digest(make(shrinkage=2.0)))


def test_every_flipped_byte_is_found():
    data = bytearray(encode(make()))
    for place in range(0, len(data), 37):
        data[place] ^= 1
        with pytest.raises(DecodeError, match="damaged"):
            decode(bytes(data))
        data[place] ^= 1


def test_a_missing_truncated_or_oversized_file_is_refused(tmp_path):
    path = tmp_path / "features.cbor"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    for data in (b"", encode(make())[:-1]):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="no feature map"):
            load(path)
    with pytest.raises(DecodeError, match="at most"):
        decode(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "fedmesh.features/2"),
        ("name", 3),
        ("options", ["cell"]),
        ("options", {"cell": [4]}),
        ("input_shape", [1, -8, 8]),
        ("input_shape", []),
        ("input_shape", [1, 1 << 20, 1 << 20]),
        ("bias", float("nan")),
        ("bias", 1),
        ("centre", [0.0]),
        ("centre", np.zeros(31)),
        ("spread", np.zeros(32)),
        ("spread", np.full(32, np.inf)),
        ("whitening", np.zeros((32, 6))),
        ("whitening", np.full((32, 6), 1 << 23, np.int32)),
        ("whitening", np.zeros((32, 0), np.int32)),
        ("surplus", 1),
    ],
)
def test_what_is_no_map_is_refused(key, value):
    content = loads(encode(make())[32:], max_bytes=MAX_BYTES)
    assert content["centre"].shape == (32,)
    with pytest.raises(DecodeError):
        decode(sealed(content | {key: value}))


def test_an_extractor_that_is_not_installed_is_refused(tmp_path):
    content = loads(encode(make())[32:], max_bytes=MAX_BYTES)
    path = tmp_path / "features.cbor"
    path.write_bytes(sealed(content | {"name": "sift"}))
    with pytest.raises(ConfigError, match="'sift' is not one of the features installed"):
        load(path)
