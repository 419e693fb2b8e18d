"""What a training has to beat: the best constant against closed forms, and the words about it."""

import math

import numpy as np
import pytest
import runs
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from cnognp import tasks
from cnognp.tasks import Task
from cnognp.tasks.problem import Problem
from cnognp.training.baseline import Constant, constant, remark
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape import results

CPU = torch.device("cpu")


def made(seed=0):
    return torch.Generator(device="cpu").manual_seed(seed)


X = torch.randn(120, 4, generator=made())
Y = 3 + 2 * torch.randn(120, 2, generator=made(1))
CLASS = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 120, True, generator=made(2))
WEIGHT = torch.tensor([1.0, 2.0, 0.5])


def best(loss, target, model=None, train_=None, **more):
    task = Task(model=model or nn.Linear(4, 3), loss=loss, train=train_ or (X, target), **more)
    return constant(Problem(task, CPU))


def entropy(weight=None):
    share = torch.bincount(CLASS, minlength=3).double() * (1 if weight is None else weight)
    share = share / share.sum()
    return float(-(share * share.log()).sum())


@pytest.mark.parametrize("name", ["wine", "digits"])
def test_of_a_cross_entropy_it_is_the_entropy_of_the_shares_of_the_classes(name):
    task = tasks.load(name, seed=0)
    share = np.bincount(task.train[1].numpy()) / len(task.train[1])
    found = constant(Problem(task, CPU))
    assert found.loss == pytest.approx(-(share * np.log(share)).sum(), rel=1e-5)
    assert found.metrics == {"accuracy": pytest.approx(share.max(), abs=1e-6)}
    np.testing.assert_allclose(found.output.softmax(0), share, atol=1e-3)


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-4, 0.0), (1e4, 1e6)])
def test_of_a_squared_error_it_is_the_variance_whatever_its_scale(scale, shift):
    target = scale * Y + shift
    found = best(F.mse_loss, target, nn.Linear(4, 2))
    assert found.loss == pytest.approx(
        float(target.double().var(0, unbiased=False).mean()), rel=1e-4
    )
    np.testing.assert_allclose(found.output, target.mean(0), rtol=1e-3)


def test_of_other_losses_it_is_what_their_closed_forms_say():
    median = best(F.l1_loss, Y, nn.Linear(4, 2))
    assert median.loss == pytest.approx(float((Y - Y.median(0).values).abs().mean()), rel=1e-3)
    weighted = best(nn.CrossEntropyLoss(weight=WEIGHT), CLASS)
    assert weighted.loss == pytest.approx(entropy(WEIGHT), rel=1e-5)
    share = float((CLASS == 0).float().mean())
    binary = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    sigmoid = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    known = (CLASS == 0).float()[:, None]
    assert best(nn.BCELoss(), known, sigmoid).loss == pytest.approx(binary, rel=1e-4)


def test_batches_count_by_their_samples_and_weights():
    cuts = list(zip(X.split([100, 20]), CLASS.split([100, 20]), strict=True))
    assert best(F.cross_entropy, None, train_=cuts).loss == pytest.approx(entropy(), rel=1e-5)
    loader = DataLoader(TensorDataset(X, CLASS), batch_size=50)
    assert best(F.cross_entropy, None, train_=loader).loss == pytest.approx(entropy(), rel=1e-5)

    def summed(output, target):
        weight = WEIGHT[target]
        return (weight * F.cross_entropy(output, target, reduction="none")).sum(), weight.sum()

    assert best(summed, None, train_=cuts).loss == pytest.approx(entropy(WEIGHT), rel=1e-5)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return {"out": self.inner(x)}


@pytest.mark.parametrize(
    "loss, target, model",
    [
        (lambda output, target: F.mse_loss(output["out"], target), Y, Named()),
        # Log-probabilities need not be such, so the loss of a constant has no minimum.
        (F.nll_loss, CLASS, nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))),
        (
            lambda output, target: F.nll_loss(output.log(), target),
            CLASS,
            nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)),
        ),
        (lambda output, target: output.mean() ** 2, Y[:1].expand(120, 2), nn.Sequential(
            nn.Linear(4, 2), nn.Flatten(0))),
    ],
    ids=["no tensor", "log-probabilities", "probabilities", "other rows"],
)  # fmt: skip
def test_where_there_is_no_best_constant_nothing_is_said(loss, target, model):
    assert best(loss, target, model) is None


def test_a_metric_that_takes_no_constant_is_left_out():
    def refuses(output, target):
        if bool((output == output[0]).all()):
            raise ValueError("no spread")
        return output.std()

    found = best(F.mse_loss, Y, nn.Linear(4, 2), metrics={"refuses": refuses, "mean": F.l1_loss})
    assert found is not None and list(found.metrics) == ["mean"]


def measured(loss, **train):
    return {"loss": loss, "metrics": {"train": {"loss": loss, **train}}}


@pytest.mark.parametrize(
    "loss, accuracy, start, said",
    [
        (0.2, 0.9, 1.0, ""),
        (0.58, 0.73, 1.0, "no better than a constant: one output for all samples has a training"),
        (0.578, 0.8, 1.0, "no better than a constant"),
        (math.nan, 0.8, 1.0, "no better than a constant"),
        (0.5, 0.73, 1.0, "its metrics on the training data are those of one output for all "
                         "samples: accuracy 0.73"),
        (0.2, 0.9, 0.2, "no better than its start, where the loss was 0.2"),
        (0.7, 0.7, 0.6, "; no better than its start, where the loss was 0.6. Try more iterations"),
    ],
)  # fmt: skip
def test_the_remark_says_what_was_not_reached_and_nothing_else(loss, accuracy, start, said):
    found = Constant(torch.zeros(2), 0.58, {"accuracy": 0.73})
    told = remark(measured(loss, accuracy=accuracy), found, start)
    assert (said in told) if said else not told


def test_without_a_constant_and_a_start_there_is_no_remark():
    assert remark(measured(3.0), None, None) == ""
    assert "start" in remark(measured(3.0), None, 3.0)


TASK = '''
import torch
from torch.nn import Linear
from torch.nn.functional import cross_entropy
from cnognp.tasks import Task


def noise():
    """Inputs that say nothing."""
    return Task(Linear(3, 2), cross_entropy, (torch.zeros(40, 3), torch.arange(40) % 4 // 3))


def easy():
    x = torch.randn(40, 3, generator=torch.Generator("cpu").manual_seed(0))
    return Task(Linear(3, 2), cross_entropy, (x, (x[:, 0] > 0).long()))
'''


@pytest.mark.parametrize("kind", ["noise", "easy"])
def test_a_training_that_learnt_nothing_says_so_everywhere(capsys, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(TASK)
    call = runs.calls(capsys)
    outcome = call("train", f"own.py:{kind}", "--members", "3", "--iterations", "30", "--out", "r")
    assert outcome.code == 0, outcome.err
    learnt = kind == "easy"
    assert ("remark" in outcome.out and "no better than" in outcome.out) != learnt
    assert "loss of the best constant" in outcome.out
    shown = call("show", "r", "--json").document["judgement"]
    assert bool(shown["remark"]) != learnt
    meta = runs.final(tmp_path / "r").meta["judgement"]
    history = results.load(tmp_path / "r" / "analysis" / "history.h5").provenance["judgement"]
    assert shown == meta == history
    if not learnt:
        share = 0.25
        truth = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        assert meta["constant_loss"] == pytest.approx(truth, rel=1e-5)
        assert meta["start_loss"] > truth


def test_a_run_that_was_left_is_not_judged_until_its_end(tmp_path):
    config = Config("wine", members=2, iterations=3, threads=1)
    folder = RunFolder(tmp_path / "run")
    assert "judgement" not in train(config, folder, leave=lambda: True).meta
    assert train(config, folder, resume=True).meta["judgement"]["constant_loss"] > 1


def test_show_of_a_run_from_before_says_nothing_of_constants(capsys, tmp_path, monkeypatch):
    from cnognp.cli.show import print_summary, summary

    meta = {"task": "wine", "method": "gd", "status": "finished", "iterations": 3}
    document = summary(RunFolder(tmp_path), meta)
    assert document["judgement"]["remark"] == "" and document["judgement"]["constant_loss"] is None
    print_summary(document)
    assert "constant" not in capsys.readouterr().out
