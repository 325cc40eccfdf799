"""Histograms of gradients, upright images, features of inertial windows."""

import numpy as np
import pytest

from fedmesh.features.extractors import pixels
from fedmesh.features.hog import hog
from fedmesh.features.inertial import inertial
from fedmesh.features.upright import upright


def bar(slant=0.0, shift=(0, 0), width=3, height=16):
    """A bright bar on a dark ground, 28x28, sheared by `slant` columns a row."""
    image = np.zeros((28, 28), np.float32)
    for row in range(14 - height // 2, 14 + height // 2):
        left = round(14 + shift[1] + slant * (row - 14)) - width // 2
        image[row + shift[0], left : left + width] = 1
    return image


def centre(image):
    y, x = np.mgrid[:28, :28]
    return (image * y).sum() / image.sum(), (image * x).sum() / image.sum()


def test_pixels_are_rows():
    x = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    assert pixels((1, 3, 4))(x).tolist() == x.reshape(2, 12).tolist()


def test_an_upright_image_is_in_the_middle_and_has_no_slant():
    for image in (bar(), bar(shift=(4, -5)), bar(slant=0.5), bar(slant=-0.4, shift=(-3, 2))):
        straight = upright(image[None])[0]
        assert centre(straight) == pytest.approx((13.5, 13.5), abs=0.3)
        y, x = np.mgrid[:28, :28] - 13.5
        assert abs((straight * y * x).sum() / (straight * y * y).sum()) < 0.06


def test_position_slant_and_size_leave_the_histograms_almost_alone():
    extract, plain = hog((1, 28, 28)), hog((1, 28, 28), upright=False)
    first = bar()[None, None]
    for other in (bar(shift=(4, -5)), bar(slant=0.5), bar(height=22, width=4)):
        near = np.linalg.norm(extract(first) - extract(other[None, None]))
        far = np.linalg.norm(plain(first) - plain(other[None, None]))
        assert near < 0.7 * far


def test_a_blank_image_stays_blank():
    assert not upright(np.zeros((2, 28, 28), np.float32)).any()
    faint = np.full((1, 28, 28), 1e-4, np.float32)  # below the smallest grey level
    faint[0, 3, 5] = 0
    assert upright(faint).tobytes() == faint.tobytes()
    assert np.isfinite(hog((1, 28, 28))(np.zeros((2, 1, 28, 28), np.float32))).all()


def test_a_gradient_votes_for_its_direction():
    ramp = np.tile(np.linspace(0, 1, 28, dtype=np.float32), (28, 1))
    for image, direction in ((ramp, 0), (ramp.T, 2), (1 - ramp, 4), (1 - ramp.T, 6)):
        votes = hog((1, 28, 28), upright=False)(image[None, None]).reshape(8, 7, 7)
        inner = votes[:, 2:5, 2:5].sum(axis=(1, 2))
        assert inner.argmax() == direction
        assert inner[(direction + 2) % 8] == inner[(direction + 4) % 8] == 0


def test_images_need_not_be_square():
    assert hog((1, 20, 12), cell=5, directions=4)(np.ones((3, 1, 20, 12), np.float32)).shape == (3, 4 * 4 * 2)


def still(gravity, count=128):
    window = np.zeros((1, 9, count), np.float32)
    window[0, :3] = 2 * np.array(gravity, np.float32)[:, None]
    return window


def test_a_still_window_tells_where_gravity_points():
    features = inertial((9, 128))
    standing, lying = features(still((1, 0, 0))), features(still((0, 0, 1)))
    assert standing.shape[1] == 680
    assert np.isfinite(standing).all()
    np.testing.assert_allclose(standing[0, -12:-9], [1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(lying[0, -12:-9], [0, 0, 1], atol=1e-5)


def test_a_faster_step_is_in_a_higher_band():
    time = np.arange(128)
    extract = inertial((9, 128))
    bands = []
    for periods in (4, 20):
        window = still((1, 0, 0))
        window[0, 3] = np.sin(2 * np.pi * periods * time / 128)
        window[0, 0] += window[0, 3] / 2
        bands.append(extract(window)[0, 23 * (1 + 5 + 7) :][: 23 * 15].reshape(23, 15)[3].argmax())
    edges = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 27, 36, 48, 64)
    assert [edges[band] for band in bands] == [4, 20]
