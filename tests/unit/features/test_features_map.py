"""The frozen map from examples to vectors."""

from dataclasses import replace

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DataError
from fedmesh.features import FeatureMap, fit
from fedmesh.features.whitening import whiten
from fedmesh.types import Examples


def images(count, seed=0, side=28):
    rng = np.random.default_rng(seed)
    x = rng.random((count, 1, side, side), np.float32)
    x[:, :, :, : side // 3] *= 0.2
    return Examples(x * (x > 0.6), rng.integers(0, 3, count))


def windows(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 9, 128)).astype(np.float32)
    x[:, 0] += 2
    return Examples(x, rng.integers(0, 3, count))


SETS = {"hog": images(60), "pixels": images(60, side=8), "inertial": windows(60)}


def fitted(name, **settings):
    return fit(name, SETS[name], **({"components": 12, "bias": 0.3} | settings))


@pytest.mark.parametrize("name", SETS)
def test_vectors_have_unit_norm_and_end_with_the_bias(name):
    features = fitted(name)
    vectors = features(SETS[name].x)
    assert vectors.dtype == np.float32
    assert vectors.shape == (60, 13)
    assert features.components == 12
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :-1], axis=1), 1, rtol=1e-6)
    assert (vectors[:, -1] == np.float32(0.3)).all()


@pytest.mark.parametrize("name", SETS)
def test_an_example_alone_has_the_bits_that_it_has_in_a_batch(name):
    features, x = fitted(name), SETS[name].x
    together = features(x)
    assert np.concatenate([features(x[i : i + 1]) for i in range(len(x))]).tobytes() == together.tobytes()
    assert features(x[::-1]).tobytes() == together[::-1].tobytes()
    assert features(x[7:40]).tobytes() == together[7:40].tobytes()
    many = np.concatenate([x] * 20)  # over several chunks
    assert features(many).tobytes() == np.concatenate([together] * 20).tobytes()


@pytest.mark.parametrize("name", SETS)
def test_the_slow_twin_adds_up_in_integers(name):
    features, x = fitted(name), SETS[name].x[:5]
    raw = features._extract(x).astype(np.float64)
    levels = np.rint(np.clip((raw - features.centre) / features.spread, -16, 16) * 4096)
    for row, got in zip(levels.astype(int).tolist(), features(x), strict=True):
        mixed = [
            sum(a * b for a, b in zip(row, column, strict=True)) for column in features.whitening.astype(int).T.tolist()
        ]
        length = sum(value * value for value in mixed) ** 0.5
        np.testing.assert_allclose(got[:-1], [value / length for value in mixed], atol=3e-6)


def test_nothing_but_the_public_examples_moves_the_map():
    first, again = fitted("hog"), fitted("hog")
    first(images(200, seed=5).x)
    assert first.whitening.tobytes() == again.whitening.tobytes()
    assert first.centre.tobytes() == again.centre.tobytes()


def test_labels_count_only_where_they_are_asked_for():
    shuffled = replace(SETS["hog"], y=SETS["hog"].y[::-1].copy())
    settings = {"components": 12, "bias": 0.3}
    for within, same in ((0.0, True), (0.5, False)):
        maps = [fit("hog", public, within=within, **settings) for public in (SETS["hog"], shuffled)]
        assert (maps[0].whitening.tobytes() == maps[1].whitening.tobytes()) == same


def test_without_shrinkage_the_public_vectors_are_white():
    rows = np.random.default_rng(1).normal(size=(500, 6)) @ np.diag([9, 4, 2, 1, 0.5, 0.1])
    rows -= rows.mean(axis=0)
    white = rows @ whiten(rows, np.zeros(500, int), components=6, shrinkage=0, within=0)
    np.testing.assert_allclose(white.T @ white / 500, np.eye(6), atol=1e-3)


def test_an_axis_that_nothing_varies_along_is_not_divided_by():
    rows = np.random.default_rng(1).normal(size=(50, 3)) * [1, 0, 2]
    assert np.isfinite(whiten(rows - rows.mean(axis=0), np.zeros(50, int), components=3, shrinkage=0, within=0)).all()


def test_what_varies_within_a_class_counts_less_and_what_separates_them_leads():
    rng = np.random.default_rng(2)
    labels = np.arange(400) % 2
    rows = rng.normal(size=(400, 3)) * [1, 5, 1]
    rows[:, 2] += 3 * labels
    rows -= rows.mean(axis=0)
    direction = whiten(rows, labels, components=1, shrinkage=0, within=1)[:, 0]
    assert np.abs(direction).argmax() == 2
    whole = whiten(rows, labels, components=3, shrinkage=0, within=0)
    assert np.abs(whole[1]).max() < np.abs(whole[0]).max()


def test_a_blank_image_and_an_outlier_have_vectors():
    features = fitted("hog")
    found = features(np.stack([np.zeros((1, 28, 28)), np.full((1, 28, 28), 1e6)]).astype(np.float32))
    assert np.isfinite(found).all()


def test_no_examples_give_no_vectors():
    assert fitted("pixels")(SETS["pixels"].x[:0]).shape == (0, 13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 0}, "at most 59"),
        ({"components": 60}, "at most 59"),
        ({"shrinkage": -1.0}, "shrinkage"),
        ({"within": 2.0}, "within"),
        ({"options": {"cells": 3}}, "options"),
        ({"options": {"cell": 1}}, "cell"),
        ({"options": {"directions": 1}}, "directions"),
        ({"options": {"upright": 1}}, "upright"),
    ],
)
def test_what_cannot_be_fitted_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        fitted("hog", **settings)


@pytest.mark.parametrize(("name", "public"), [("hog", windows(9)), ("inertial", images(9))])
def test_examples_of_another_kind_are_refused(name, public):
    with pytest.raises(ConfigError, match="choose other features"):
        fit(name, public, components=2, bias=0.3)


def test_unknown_features_name_those_installed():
    with pytest.raises(ConfigError, match="hog, inertial, pixels"):
        fit("sift", SETS["hog"], components=2, bias=0.3)


def test_public_examples_that_are_all_alike_or_too_few_are_refused():
    alike = Examples(np.ones((9, 1, 8, 8), np.float32), np.zeros(9, int))
    with pytest.raises(ConfigError, match="the same features"):
        fit("pixels", alike, components=2, bias=0.3)
    with pytest.raises(ConfigError, match="1 public examples"):
        fit("pixels", SETS["pixels"][:1], components=2, bias=0.3)
    with pytest.raises(ConfigError, match="0 public examples"):
        fit("pixels", SETS["pixels"][:0], components=2, bias=0.3)


def test_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"of shape \[1, 8, 8\], not \[1, 28, 28\]"):
        fitted("pixels")(SETS["hog"].x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", SETS)
def test_an_example_that_is_not_sound_is_a_vector_without_components_and_leaves_the_others_alone(name, value):
    features, sound = fitted(name), SETS[name].x
    x = sound.copy()
    x[3] = value
    vectors, wanted = features(x), features(sound)
    others = np.arange(len(x)) != 3
    assert vectors[others].tobytes() == wanted[others].tobytes()
    assert np.isfinite(vectors).all()
    if not np.isfinite(value):
        assert vectors[3].tolist() == [*[0.0] * 12, np.float32(0.3)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", SETS)
def test_public_examples_that_are_not_finite_are_refused(name, value):
    bad = SETS[name].x.copy()
    bad[3] = value
    with pytest.raises(DataError, match="not finite"):
        fit(name, Examples(bad, SETS[name].y), components=12, bias=0.3)


def test_an_extractor_that_has_changed_since_is_refused():
    kept = fitted("hog")
    with pytest.raises(ConfigError, match="98 an example here, and were 392"):
        FeatureMap("hog", {"directions": 2}, kept.input_shape, kept.centre, kept.spread, kept.whitening, kept.bias)(
            SETS["hog"].x
        )
