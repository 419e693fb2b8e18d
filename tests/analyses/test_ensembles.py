"""Ensembles and soups: scores by closed forms and by others' code, identities, and refusals."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy
from sklearn.metrics import f1_score, log_loss

from analyses import ensembles
from analyses.ensembles import Config, study
from analyses.predictions import Said, averaged, calibration_error, divergence, said
from cnognp.cli.main import main
from cnognp.measuring import paths, subjects
from cnognp.tasks import TASKS
from cnognp.tasks.problem import Problem
from cnognp.tasks.task import Task, initial_population
from cnognp.training.config import RunFolder
from figures import ensembles as drawn
from figures import style
from landscape.results import load


def members(count=4, n=60, classes=3):
    source = np.random.default_rng(0)
    target = source.integers(classes, size=(n, 1))
    return [
        Said(log_softmax(3 * source.normal(size=(n, 1, classes)), -1), target) for _ in range(count)
    ]


def test_scores_are_those_of_sklearn_and_of_the_formula():
    (one,) = members(1)
    p, target = np.exp(one.log_p[:, 0]), one.target[:, 0]
    loss, accuracy, f1, ece, brier = one.scores()
    assert loss == pytest.approx(log_loss(target, p))
    assert f1 == pytest.approx(f1_score(target, p.argmax(1), average="macro"))
    assert accuracy == (p.argmax(1) == target).mean()
    assert brier == pytest.approx(sum(((row - np.eye(3)[t]) ** 2).sum()
                                      for row, t in zip(p, target, strict=True)) / 60)  # fmt: skip
    expected, sure = 0.0, p.max(1)
    for b in range(15):
        inside = (sure > b / 15) & (sure <= (b + 1) / 15)
        if inside.any():
            hit = (p.argmax(1) == target)[inside].mean()
            expected += inside.mean() * abs(hit - sure[inside].mean())
    assert ece == pytest.approx(expected)
    assert calibration_error(np.ones(4), np.array([1, 0, 1, 0])) == 0.5


def test_scores_of_several_labels_are_those_of_sklearn():
    source = np.random.default_rng(1)
    logit, target = source.normal(size=(80, 4)), source.integers(2, size=(80, 4))
    log_p = np.stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)], -1)
    loss, accuracy, f1, _, _ = Said(log_p, target).scores()
    assert loss == pytest.approx(np.mean([
        log_loss(target[:, k], np.exp(log_p[:, k, 1])) for k in range(4)
    ]))  # fmt: skip
    assert accuracy == ((logit > 0) == target).mean()
    assert f1 == pytest.approx(f1_score(target, logit > 0, average="macro"))


def test_a_soup_of_networks_with_batchnorm_has_statistics_of_its_own():
    """Those of torch: a pass over the training data in one batch, with momentum 1."""
    task = TASKS["digits"](network="conv")
    problem = Problem(task, torch.device("cpu"), data_seed=0, noise_seed=0)
    points = initial_population(task, problem.training.layout, 3, 0)
    soup = ensembles.uniform_soup(list(points))
    model = copy.deepcopy(task.model)
    with torch.no_grad():
        for name, tensor in problem.training.layout.unflatten(points.mean(0)).items():
            model.get_parameter(name).copy_(tensor)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        # torch keeps the unbiased variance, the project that of the data as they are normalised.
        model.train()(task.train[0])
        output = model.eval()(task.test[0])
    own = torch.nn.functional.cross_entropy(output, task.test[1])
    found = said(problem, soup, "test").losses().mean()
    assert found == pytest.approx(float(own), rel=1e-3)
    with torch.no_grad():
        kept = torch.nn.functional.cross_entropy(
            copy.deepcopy(task.model).eval()(task.test[0]), task.test[1]
        )
    assert abs(float(kept) - float(own)) > 0.05


def test_the_gap_is_never_negative_and_divergence_is_a_difference_of_entropies():
    several = members()
    whole = averaged(several)
    p = np.mean([np.exp(each.log_p) for each in several], axis=0)
    np.testing.assert_allclose(np.exp(whole.log_p), p, rtol=1e-12)
    assert (np.mean([each.losses() for each in several], axis=0) >= whole.losses()).all()
    own = np.mean([entropy(np.exp(each.log_p[:, 0]), axis=1).mean() for each in several])
    assert divergence(several) == pytest.approx(entropy(p[:, 0], axis=1).mean() - own)
    sharp = [Said(np.array([[[0.0, -2e3]]]), np.array([[k]])) for k in (0, 1)]
    assert divergence(sharp) == 0 and averaged(sharp).losses().tolist() == [0.0]


def linear(loss, target, outputs=2):
    model = torch.nn.Linear(1, outputs, bias=False)
    x = torch.linspace(-1, 1, len(target)).reshape(-1, 1)
    return Problem(Task(model, loss, *[(x, target)] * 3), torch.device("cpu"))


def test_soups_of_two_are_the_mean_or_the_better_one():
    target = (torch.arange(8) > 3).long()
    problem = linear(torch.nn.functional.cross_entropy, target)
    good, bad = torch.tensor([-3.0, 3.0]), torch.tensor([9.0, -9.0])
    assert ensembles.uniform_soup([good, bad]).tolist() == [3.0, -3.0]
    chosen, soup = ensembles.greedy_soup(problem, [good, bad], "accuracy")
    assert chosen == [0] and torch.equal(soup, good)
    chosen, soup = ensembles.greedy_soup(problem, [good, 2 * good], "loss")
    assert chosen == [0, 1] and torch.equal(soup, 1.5 * good)


def test_several_logits_are_labels_and_other_losses_are_refused():
    target = torch.randint(2, (8, 3), generator=torch.Generator().manual_seed(0)).float()
    problem = linear(torch.nn.functional.binary_cross_entropy_with_logits, target, 3)
    found = said(problem, torch.ones(3), "test")
    assert found.log_p.shape == (8, 3, 2)
    with pytest.raises(ValueError, match="needs a loss that is the mean cross-entropy"):
        said(linear(torch.nn.functional.mse_loss, target, 3), torch.ones(3), "test")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "wine"
    words = ["train", "wine", "--method", "adam", "--members", "3", "--iterations", "15"]
    assert main([*words, "--quiet", "--out", str(folder)]) == 0
    return str(folder)


def test_one_command_over_a_run(run, tmp_path):
    words = ["study", "ensembles", "--runs", run, "--points", "5", "--out", str(tmp_path)]
    assert main(words) == 0
    found = load(tmp_path / "analysis" / "ensembles.h5")
    subject = subjects.of_run(RunFolder(tmp_path.__class__(run)), "all", "last", "", False)
    for place, name in enumerate(found.models[:3]):
        z = subject.points[f"member{int(name[-1]):03d}"]
        metrics = subject.problem.metrics(z)
        for k, split in enumerate(("validation", "test")):
            assert found.score[k, place, 0] == pytest.approx(metrics[split]["loss"], rel=1e-5)
            assert found.score[k, place, 2] == pytest.approx(metrics[split]["macro_f1"])
    assert (np.diff(found.score[0, :3, 1]) <= 0).all()
    assert (found.gap >= 0).all() and found.chosen[0] == found.models[0]
    np.testing.assert_allclose(found.difference[:, 0], 0)
    assert (found.low <= found.difference + 1e-12).all()
    walls = load(tmp_path / "analysis" / "barriers.h5")
    wanted = paths.Wanted("linear", options={"points": 5})
    path = paths.found_path(paths.between(*walls.names[:2]), wanted)
    assert walls.barrier[0, 1] == path.barrier
    assert (tmp_path / "analysis" / "barriers-in-order.h5").exists()
    assert (tmp_path / "figures" / "ensembles-scores.png").exists()
    artists = drawn.scores(found, "loss", style.new_figure().subplots())
    np.testing.assert_array_equal(artists["grown"][0].get_ydata(), found.grown[-1, :, 0])


def test_members_of_other_data_or_too_few_are_refused(run, tmp_path):
    other = tmp_path / "other"
    words = ["train", "wine", "--members", "2", "--iterations", "1", "--seed", "1", "--quiet"]
    assert main([*words, "--out", str(other)]) == 0
    with pytest.raises(ValueError, match="members of one data are needed"):
        study(Config((run, str(other)), points=0))
    with pytest.raises(ValueError, match="at least two"):
        study(Config((run,), members="0"))
    with pytest.raises(ValueError, match="criterion must be one of accuracy, loss"):
        Config(criterion="luck")
