"""Runs whose members are ranked by their epochs: what is recorded, shown and taken as the best."""

import math

import numpy as np
import pytest
import runs
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from cnognp import tasks
from cnognp.training.config import RunFolder
from cnognp.training.session import train
from landscape import results

RANKED = ("--method", "cnognp", "--method.fitness_from", "epoch", "--method.penalty", "0.3")


@pytest.fixture
def call(capsys):
    return runs.calls(capsys)


def trained(call, folder, *more, **sizes):
    outcome = call(*runs.train(folder, "--json", *more, **{"members": 3, **sizes}))
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.document


def test_the_best_point_is_judged_on_the_whole_data(call, tmp_path):
    """Great steps, so that epochs differ; loss, norm and fitness by plain torch."""
    document = trained(call, tmp_path / "run", *RANKED, "--method.lr", "1.5", iterations=4)
    task = tasks.load("wine", seed=0)
    task.model.load_state_dict(load_file(tmp_path / "run" / "best.safetensors"))
    inputs, target = task.train
    loss = cross_entropy(task.model(inputs), target)
    grads = torch.autograd.grad(loss, list(task.model.parameters()))
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
    fitness = float(loss.detach()) + 0.3 * norm**2
    best, arrays = document["best"], runs.final(tmp_path / "run").arrays
    assert best["fitness"] == pytest.approx(fitness, rel=1e-4)
    assert arrays["best/fitness"] == pytest.approx(fitness, rel=1e-4)
    history = results.load(tmp_path / "run" / "analysis" / "history.h5")
    assert history.provenance["fitness_from"] == "epoch"
    assert history.fitness.shape == (4, 3) and np.isfinite(history.fitness).all()
    assert (history.best_fitness[1:] <= history.best_fitness[:-1]).all()
    # An epoch each, one of the starts, and what is judged to be told does not count.
    assert history.evaluations.tolist() == [6, 9, 12, 15]


def test_what_ranks_is_said(call, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name, more, says in (
        ("epoch", RANKED, "means over their epochs"),
        ("point", ("--method", "cno"), "passes at their new points"),
        ("none", ("--method", "sgd"), None),
    ):
        document = trained(call, tmp_path / name, *more, iterations=2)
        assert document["fitness_from"] == (None if says is None else name)
        shown = call("show", tmp_path / name).out
        assert ("members ranked by" in shown) == (says is not None)
        assert says is None or says in shown


def test_a_run_cut_in_two_ends_like_a_whole_one(call, tmp_path):
    more = ("--horizon", "4", "--schedule", "cosine", "--base", "gcsam", "--method.momentum", "0.5")
    trained(call, tmp_path / "run", *RANKED, *more, iterations=4)
    config, asked = RunFolder(tmp_path / "run").config(), []
    cut = RunFolder(tmp_path / "cut")
    train(config, cut, leave=lambda: len(asked) == 1 or asked.append(1))
    assert runs.final(cut.path).iteration == 2
    train(config, cut, resume=True)
    runs.assert_same_run(cut.path, tmp_path / "run")


def test_a_published_run_has_the_published_settings_and_goes_on(call, tmp_path):
    more = ("--method", "cnognp", "--method.published", "true")
    first = call(*runs.train(tmp_path / "run", *more, members=2, iterations=3))
    assert first.code == 0 and "batch_size 128 is more than the 106 samples" in first.err
    said = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["method"]
    assert (said["cognitive"], said["power"], said["penalty"]) == (1e-5, "norm", 0.1)
    assert said["data"]["batch_size"] == 128 and said["base"]["weight_decay"] == 5e-4
    outcome = call(*runs.train(tmp_path / "run", *more, members=2, iterations=3), "--resume")
    assert (outcome.code, outcome.err) == (0, "")
