"""Scores of optimisers against other definitions, and the study on a few generated images."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from analyses import gcsam
from analyses.budgets import moments
from analyses.ends import MEASURES
from cnognp.methods.sharpness_aware import GCSAM, SAM
from cnognp.tasks import cifar, medical
from cnognp.tasks.networks import small_conv
from cnognp.tasks.problem import Problem, task_of
from cnognp.tasks.tabular import Splits, tensors
from cnognp.workers import UnitError, results_of
from landscape.results import load, save
from landscape.results.finetuning import Ending
from landscape.sharpness import Options

CPU = torch.device("cpu")


def network(name, classes, norm="batch", generator=None):
    return small_conv(classes, (4, 4), 3, 32, generator)


def images_of(size, classes):
    """Splits of random images, brighter for a higher class, so that there is something to learn."""
    source = np.random.default_rng(0)
    splits = []
    for count in (40, 20, 30):
        target = np.arange(count) % classes
        light = 60 + 60 * target[:, None, None, None] // classes
        splits.append((source.integers(0, light + 120, (count, *size)).astype(np.uint8), target))
    return tensors(Splits(*splits))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(medical, "architecture", network)
    monkeypatch.setattr(cifar, "architecture", network)
    monkeypatch.setattr(medical, "_read", lambda *_: (images_of((1, 28, 28), 2), {}))
    monkeypatch.setattr(cifar, "_splits", lambda known, options: images_of((3, 32, 32), 10))
    return gcsam.Config(
        networks=("resnet20",), methods=("adam", "sam", "gcsam-a1"), seeds=2, epochs=4, batch=10,
        device="cpu", options=Options(starts=1, steps=2, pairs=2, probes=2, budget=0),
    )  # fmt: skip


def predictions(problem, z):
    """The shares (n, classes) on the test images of the plain module, and the classes."""
    images, target = problem.task.test
    module = problem.at(z).network(z)
    with torch.no_grad():
        return module(problem.task.prepare(images)).softmax(-1).numpy(), target.numpy()


@pytest.mark.parametrize("name", ["breastmnist", "cifar10"])
def test_scores_of_the_test_images_are_those_of_their_definitions(tiny, name):
    problem = Problem(task_of(name, 0, {}), CPU, data_seed=0, noise_seed=0)
    z = problem.training.point()
    accuracy, f1, auc = gcsam.tested(problem, z)
    assert accuracy == pytest.approx(problem.metrics(z)["test"]["accuracy"])
    share, truth = predictions(problem, z)
    told, classes = share.argmax(-1), range(share.shape[1])
    hits = np.array([((told == k) & (truth == k)).sum() for k in classes])
    both = np.array([(told == k).sum() + (truth == k).sum() for k in classes])
    assert f1 == pytest.approx(np.mean(2 * hits / both))
    ranked = [
        stats.mannwhitneyu(share[truth == k, k], share[truth != k, k]).statistic
        / ((truth == k).sum() * (truth != k).sum())
        for k in classes
    ]
    assert auc == pytest.approx(np.mean(ranked) if len(classes) > 2 else ranked[1], abs=1e-6)


def test_methods_are_what_their_names_say():
    config = gcsam.Config(base="sgd", rate_sgd=0.3, rho=0.2)
    sam, one, three = (config.method(name).method for name in ("sam", "gcsam-a1", "gcsam-a3"))
    assert isinstance(sam, SAM) and isinstance(one, GCSAM)
    assert (one.variant, three.variant, three.rho, sam.rho) == ("A1", "A3", 0.2, 0.2)
    assert (sam.base.lr, sam.base.momentum) == (0.3, 0.9)
    assert type(gcsam.Config().method("sam").method.base).__name__ == "Adam"
    assert config.method("adam").method.lr == 0.001


def test_a_run_is_at_its_best_where_the_validation_loss_is_lowest(tiny):
    run = gcsam.Run(tiny, "resnet20", "sam", 1)
    end = gcsam.ending(run)
    problem = Problem(task_of("breastmnist", 1, {}), CPU, data_seed=0, noise_seed=0)
    stands = list(moments(problem, tiny.method("sam"), 1, 4, 1))
    losses = [problem.metrics(each.points[0])["validation"]["loss"] for each in stands]
    best = int(np.argmin(losses))
    assert [each.passes for each in stands] == [2, 4]
    assert end["validation loss"] == pytest.approx(losses[best])
    assert end["gradients"] == stands[best].passes * 4 and end.gradients == 16
    assert end["test accuracy"] == gcsam.tested(problem, stands[best].points[0])[0]
    assert end.low[0] <= end["lambda-max"] <= end.high[0]
    assert 0 < end["seconds"] <= end.seconds


def test_the_study_runs_whole_and_its_result_survives_a_file(tiny, tmp_path):
    found = gcsam.joined(tiny, results_of(gcsam.units(tiny), tmp_path / "units"))["gcsam"]
    assert found.value.shape == (1, 3, 2, len(gcsam.SCORES) + len(MEASURES))
    assert found.pairs == ("gcsam-a1 / sam", "gcsam-a1 / adam")
    save(found, tmp_path / "it.h5")
    again = load(tmp_path / "it.h5")
    np.testing.assert_array_equal(again.value, found.value)
    assert "Does GCSAM end flatter" in again.said()[0] and len(again.tables()) == 2


def test_a_file_of_ones_own_is_taken_where_it_is_allowed_and_the_result_names_it(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setattr(medical, "architecture", network)
    pairs = zip(("train", "val", "test"), images_of((1, 28, 28), 2), strict=True)
    arrays = {
        f"{split}_{name}": part.numpy().squeeze()
        for split, pair in pairs
        for name, part in zip(("images", "labels"), pair, strict=True)
    }
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    config = replace(tiny, data=str(tmp_path), methods=("adam",), epochs=2)
    with pytest.raises(UnitError, match="not the published file"):
        results_of(gcsam.units(config))
    allowed = replace(config, verify=False)
    found = gcsam.joined(allowed, results_of(gcsam.units(allowed)))["gcsam"]
    md5 = hashlib.md5((tmp_path / "breastmnist.npz").read_bytes()).hexdigest()
    assert f"breastmnist.npz (MD5 {md5})" in found.notes[-1] and len(found.notes) == 4


# The comparison, of endings that are made up


@pytest.fixture(scope="module")
def made():
    """Six seeds on one network; GCSAM has half of SAM's eigenvalue and takes Adam's gradients."""
    config = gcsam.Config(networks=("vit-t",), seeds=6, methods=("adam", "sam", "gcsam-a3"))
    source = np.random.default_rng(0)
    endings = []
    for name in config.methods:
        for seed in range(6):
            scores = dict.fromkeys(gcsam.SCORES, 1.0)
            noise = np.exp(0.05 * source.normal(size=3))
            level = {"adam": 3.0, "sam": 2.0, "gcsam-a3": 1.0}[name] * noise[0]
            scores["gradients"] = (500 if name == "sam" else 100) * noise[1]
            # The flatter, the better.
            scores["test accuracy"] = 1 - level / 10
            flat = np.array([level, 1, noise[2], 1])
            endings.append(Ending(
                task="breastmnist", method=name, rate=0.1, seed=seed, scores=gcsam.SCORES,
                score=np.array(list(scores.values())), measures=MEASURES, units=("x",) * 4,
                value=flat, low=flat, high=flat, gradients=1.0, seconds=1.0,
            ))  # fmt: skip
    sharp = np.log([each["lambda-max"] for each in endings]).reshape(3, 6)
    return config, sharp, endings


def test_ratios_are_geometric_means_of_pairs_and_tested_on_logarithms(made):
    config, sharp, endings = made
    found = gcsam.joined(config, endings)["gcsam"]
    assert found.ratio[0, 0, 0] == pytest.approx(np.exp((sharp[2] - sharp[1]).mean()))
    test = stats.ttest_rel(sharp[2], sharp[1])
    ends = test.confidence_interval(0.95)
    assert found.low[0, 0, 0] == pytest.approx(np.exp(ends.low))
    assert found.high[0, 0, 0] == pytest.approx(np.exp(ends.high))
    # Seconds are equal in all pairs, whose p value is then 1.
    assert found.ratio[0, :, 3].tolist() == [1, 1] and found.p_holm[0, :, 3].tolist() == [1, 1]
    assert test.pvalue <= found.p_holm[0, 0, 0] < 0.05


def test_a_measure_that_goes_with_the_test_accuracy_is_named_and_no_other(made):
    config, sharp, endings = made
    found = gcsam.joined(config, endings)["flatness-vit-t"]
    truth = stats.kendalltau(sharp, sharp).statistic
    assert found.tau[0] == pytest.approx(truth) == 1
    assert found.says.tolist() == [True, False, False, False]
    assert "lambda-max rises with the gap" in found.conclusion
    assert "18 independent trainings in 6 runs" in found.conclusion
    np.testing.assert_allclose(found.gap, np.exp(sharp.ravel()) / 10)
    assert np.isnan(found.nearest).all() and "nearest" not in found.conclusion
    lost = replace(endings[0], score=np.full(len(gcsam.SCORES), np.nan))
    fewer = gcsam.joined(config, [lost, *endings[1:]])["flatness-vit-t"]
    assert len(fewer.points) == 17 and "left out: 1" in fewer.conclusion


def test_the_answers_are_said_in_words(made):
    config, _, endings = made
    flatter, faster = gcsam.joined(config, endings)["gcsam"].said()[0].split(" Is it faster")
    assert "gcsam-a3 is flatter than sam on vit-t" in flatter
    assert "gcsam-a3 is flatter than adam on vit-t" in flatter
    assert "gcsam-a3 is faster than sam on vit-t (ratio 0." in faster
    assert "gcsam-a3 is neither faster nor slower for sure than adam" in faster


def test_without_gcsam_nothing_is_asked(made):
    config, _, endings = made
    found = gcsam.joined(replace(config, methods=("adam", "sam")), endings[:12])["gcsam"]
    assert found.pairs == () and "Not asked" in found.answers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "wine"}, "task must be one of breastmnist, .*got 'wine'"),
        ({"base": "lion"}, "base must be one of sgd, adam; got 'lion'"),
        ({"methods": ("sam", "sam")}, r"methods must differ, at least one, got \['sam', 'sam'\]"),
        ({"seeds": 1}, "seeds must be at least 2, got 1"),
        ({"epochs": 1}, "epochs must be at least 2, got 1"),
        ({"confidence": 0.5}, "confidence must lie between 0.5 and 1, got 0.5"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        gcsam.Config(**given)
