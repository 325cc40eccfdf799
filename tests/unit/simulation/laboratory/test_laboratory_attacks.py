"""The attacks work where they should, measure what they say, and stop where the defence is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory_subjects import private_task, subject
from training import SHAPE, examples

from fedmesh.errors import ConfigError
from fedmesh.federation import datasets
from fedmesh.simulation.laboratory.attacks import infer_membership, invert_gradients
from fedmesh.simulation.laboratory.inversion import by_matching, resemblance, similarity
from fedmesh.simulation.laboratory.membership import confidences, likelihood_ratios
from fedmesh.simulation.laboratory.pictures import draw_areas, draw_images, draw_scores
from fedmesh.simulation.laboratory.roc import area, separation, true_positives_at
from fedmesh.types import Examples


class TestRoc:
    def test_the_area_is_scikit_learns(self):
        from sklearn.metrics import roc_auc_score

        rng = np.random.default_rng(1)
        member, scores = rng.random(200) < 0.4, rng.integers(0, 20, 200).astype(float)
        assert area(scores, member) == pytest.approx(roc_auc_score(member, scores))

    def test_rare_false_positives(self):
        scores = np.concatenate([np.arange(200.0), [198.5, 250.0, 3.0, 197.5]])
        member = np.arange(204) >= 200
        assert true_positives_at(scores, member, 0.01) == 0.75
        assert true_positives_at(scores, member, 0.0) == 0.25

    def test_intervals_hold_the_figures_and_guessing_looks_like_it(self):
        rng = np.random.default_rng(2)
        member = rng.random((20, 40)) < 0.5
        found = separation(rng.normal(size=(20, 40)), member, rng=rng, repeats=100)
        assert found.area_low < 0.5 < found.area_high
        assert found.area_low < found.area < found.area_high
        sure = separation(member.astype(float), member, rng=rng, repeats=20)
        assert (sure.area, sure.area_low, sure.true_positives) == (1.0, 1.0, 1.0)

    def test_members_alone_are_refused(self):
        with pytest.raises(ConfigError, match="some of each"):
            area(np.zeros(3), np.ones(3, bool))


class TestMembership:
    def test_confidence_is_the_logit_of_the_own_classs_probability(self):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        some = examples(1, 12)
        with torch.no_grad():
            own = torch.softmax(model(torch.from_numpy(some.x)).double(), 1).numpy()[np.arange(12), some.y]
        np.testing.assert_allclose(confidences(model, some), np.log(own / (1 - own)), rtol=1e-5, atol=1e-5)

    def test_likelihood_ratios_never_use_the_target_itself(self):
        rng = np.random.default_rng(3)
        member = rng.random((16, 30)) < 0.5
        confidence = rng.normal(size=(16, 30))
        found = area(likelihood_ratios(confidence, member).ravel(), member.ravel())
        assert 0.35 < found < 0.65

    def test_likelihood_ratios_find_what_raises_confidence(self):
        rng = np.random.default_rng(4)
        member = rng.random((16, 60)) < 0.5
        confidence = rng.normal(0, 5, 60) + rng.normal(size=(16, 60)) + 2.0 * member
        by_ratio = area(likelihood_ratios(confidence, member).ravel(), member.ravel())
        assert by_ratio > 0.85
        assert by_ratio > area(confidence.ravel(), member.ravel()) + 0.1

    def test_an_undefended_update_gives_members_away_and_a_private_one_does_not(self):
        private = replace(private_task("local", noise_multiplier=8.0), learning_rate=0.1)
        clear, summed, noisy = infer_membership(
            subject(private, each=30), examples=10, models=10, local_epochs=15, seed=1
        )
        assert clear.ratio.area > 0.7
        assert clear.ratio.area > summed.ratio.area - 0.05
        assert noisy.ratio.area < 0.65
        assert noisy.ratio.area < clear.ratio.area - 0.15

    @pytest.mark.parametrize("mode", ["shared", "client", "central"])
    def test_noise_in_the_sum_is_attacked_too(self, mode):
        found = infer_membership(subject(private_task(mode), each=20), examples=6, models=6, local_epochs=2, seed=1)
        assert [one.pipeline.partition(",")[0] for one in found][:2] == ["update in the clear", "secure sum of 4"]
        assert found[2].ratio.area < 0.75

    def test_too_little_data_is_refused(self):
        with pytest.raises(ConfigError, match="ask for fewer"):
            infer_membership(subject(private_task("local")), examples=32)
        with pytest.raises(ConfigError, match="6 examples are left for the 9 devices"):
            infer_membership(subject(private_task("local"), devices=10, each=1), examples=2)


class TestInversion:
    def test_matching_finds_the_images_behind_gradients(self):
        torch.manual_seed(1)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(384, 10)
        )
        x, y = torch.rand(2, 1, 8, 8), torch.tensor([3, 7])
        gradients = []
        for image, label in zip(x, y, strict=True):
            loss = torch.nn.functional.cross_entropy(model(image[None]), label[None])
            parts = torch.autograd.grad(loss, list(model.parameters()))
            gradients.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
        found = by_matching(
            model, np.stack(gradients), y[:, None].numpy(), SHAPE, rng=np.random.default_rng(1), steps=120, restarts=1
        )
        figures = resemblance(x.numpy(), found[:, 0], np.random.default_rng(2).random((20, *SHAPE), np.float32))
        assert figures.mse < 0.02
        assert figures.recognised == 1.0

    def test_it_stops_with_noise(self):
        digits = datasets.load("digits")
        private = replace(private_task("local"), model_options={"width": 8})
        federation = subject(private)
        devices = tuple(Examples(digits.x[part], digits.y[part]) for part in np.split(np.arange(80), 4))
        found = invert_gradients(
            replace(federation, data=replace(federation.data, devices=devices)), images=3, steps=80, restarts=1, seed=1
        )
        clear, summed, noisy = (one.figures for one in found.reconstructions)
        assert clear.ssim > 0.7
        assert clear.recognised == 1.0
        assert summed.mse > clear.mse  # no more than that: a sum of four, without noise, may still give an image away
        assert noisy.ssim < 0.3

    def test_similarity(self):
        image = np.random.default_rng(1).random(SHAPE, np.float32)
        assert similarity(image, image) == pytest.approx(1.0)
        assert abs(similarity(image, np.random.default_rng(2).random(SHAPE, np.float32))) < 0.4

    def test_what_cannot_be_inverted_is_refused(self):
        with pytest.raises(ConfigError, match="multiple"):
            invert_gradients(subject(private_task("local")), images=3, batch=2)
        with pytest.raises(ConfigError, match="wanted"):
            by_matching(
                torch.nn.Linear(2, 2), np.zeros((1, 5), np.float32), np.zeros((1, 1), np.int64), (2,),
                rng=np.random.default_rng(1),
            )  # fmt: skip


def test_pictures_are_written(tmp_path):
    rng = np.random.default_rng(1)
    draw_images(
        tmp_path / "a.png", [("one", rng.random((3, 1, 8, 8), np.float32)), ("two", np.zeros((3, 3, 8, 8), np.float32))]
    )
    draw_scores(
        tmp_path / "b.png",
        [("run", rng.normal(size=50), rng.random(50) < 0.5), ("flat", np.zeros(9), np.ones(9, bool))],
    )
    draw_areas(tmp_path / "c.png", [("clear", [("loss", 0.7, 0.6, 0.8), ("ratio", 0.8, 0.7, 0.9)])])
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png", "c.png"))
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_images(tmp_path / "no" / "a.png", [("one", np.zeros((1, 1, 8, 8), np.float32))])
