"""Trainings by mini-batches that are not judged in every round."""

from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from torch.nn.functional import cross_entropy

from cnognp.tasks import memory
from cnognp.tasks.networks import resnet20, small_conv
from cnognp.training import judging
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import Training, train
from landscape import results
from landscape.networks.risk import EmpiricalRisk
from landscape.networks.statistics import measured_statistics
from landscape.objective import value

ROUNDS = 7
METHODS = {
    "sgd": {"lr": 0.3},
    "adam": {"lr": 0.1, "schedule": "cosine"},
    "sam": {"lr": 0.3},
    "swa": {"batch_size": 16},
}


def config(every, method="sgd", task="wine", **options):
    return Config(
        task=task, method=method, members=3, iterations=ROUNDS, seed=2, device="cpu", threads=1,
        judge_every=every, checkpoint_every=2,
        method_options={**METHODS.get(method, {}), **options},
    )  # fmt: skip


def history(folder):
    return results.load(folder.path / "analysis" / "history.h5")


@pytest.mark.parametrize("method", METHODS)
def test_rounds_between_judgements_are_nan_and_change_nothing(tmp_path, method):
    folders = {every: RunFolder(tmp_path / str(every)) for every in (1, 3)}
    for every, folder in folders.items():
        train(config(every, method), folder)
    full, some = (history(folder) for folder in folders.values())
    due = np.isin(full.iteration, (1, 3, 6, 7))
    for name in ("loss", "gradient_norm", "fitness"):
        assert np.isfinite(getattr(full, name)).all()
        np.testing.assert_array_equal(getattr(some, name)[due], getattr(full, name)[due])
        assert np.isnan(getattr(some, name)[~due]).all()
    np.testing.assert_array_equal(some.evaluations, full.evaluations)
    ends = [runs.final(folder.path) for folder in folders.values()]
    name = "state/position"
    np.testing.assert_array_equal(ends[0].arrays[name], ends[1].arrays[name])
    assert ends[1].meta["best"]["fitness"] == full.fitness[due].min()


@pytest.mark.parametrize("method", METHODS)
def test_members_that_live_elsewhere_are_judged_in_the_same_rounds(tmp_path, method):
    homes = {home: RunFolder(tmp_path / home) for home in ("device", "host")}
    for home, folder in homes.items():
        train(replace(config(3, method), members_live=home), folder)
    here, there = (history(folder) for folder in homes.values())
    assert np.isnan(here.loss).any()
    for name in ("loss", "best_fitness", "gradient_norm"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def test_where_nobody_says_so_a_small_task_is_judged_in_every_round(tmp_path, monkeypatch):
    assert Training.of(config(0)).judging is None
    monkeypatch.setattr(judging, "SMALL", 100)
    folder = RunFolder(tmp_path / "run")
    train(config(0), folder)
    found = history(folder)
    assert np.isin(found.iteration, (1, ROUNDS)).tolist() == np.isfinite(found.loss[:, 0]).tolist()
    assert np.isnan(found.gradient_norm).all()
    # What the best point is reported by has one all the same.
    assert runs.final(folder.path).meta["best"]["gradient_norm"] > 0


@pytest.mark.parametrize("method", ["gd", "cnognp", "pso"])
def test_a_method_that_moves_by_its_judgements_keeps_them(method):
    assert Training.of(config(3, method)).judging is None


@pytest.mark.parametrize("small", [judging.SMALL, 1])
def test_a_run_cut_between_judgements_ends_like_one_that_was_not(tmp_path, monkeypatch, small):
    monkeypatch.setattr(judging, "SMALL", small)
    task = f"{runs.task_file(tmp_path)}:conv"
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    train(config(4, task=task), whole)
    for rounds in (2, 3, None):
        asked = []
        train(
            config(4, task=task), cut, resume=True,
            leave=lambda most=rounds, asked=asked: asked.append(1) or len(asked) == most,
        )  # fmt: skip
    runs.assert_same_run(cut.path, whole.path)


def test_the_judged_loss_is_that_of_the_point(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "SMALL", 1)
    training = Training.of(config(2, task=f"{runs.task_file(tmp_path)}:conv"))
    seen = []
    training.advance(lambda training, info: seen.append((training.state.position, info)))
    for number, (z, info) in enumerate(seen, 1):
        assert (info.loss is None) == (number not in (1, 2, 4, 6, 7))
        if info.loss is not None:
            torch.testing.assert_close(info.loss, value(training.problem.evaluation, z))


def test_an_older_configuration_has_the_default():
    text = config(0).to_yaml().partition("\n")[2].replace("judge_every: 0\n", "")
    assert "judge_every" not in text
    assert Config.from_yaml(text) == config(0)
    assert replace(config(0), judge_every=2).differences(config(0)) == ["judge_every 0, not 2"]


def test_batches_are_as_large_as_their_gradient_allows(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs, target = torch.randn(40, 3, 32, 32), torch.randint(10, (40,))
        risk = EmpiricalRisk(resnet20(), (inputs, target), cross_entropy, statistics="batch")
        lean = EmpiricalRisk(torch.nn.Linear(3, 2), (inputs[:, :, 0, 0], target % 2), cross_entropy)
    assert memory.judged_together(lean) == memory.MOST
    assert memory.LEAST <= memory.judged_together(risk) <= 128
    monkeypatch.setattr(memory, "_BYTES", 1)
    assert memory.judged_together(risk) == memory.LEAST


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(24, 5), (24, 5, 3), (24, 5, 3, 2)])
def test_statistics_are_those_of_all_samples(dtype, shape):
    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    generator = torch.Generator(device="cpu").manual_seed(1)
    x = 3 * torch.randn(shape, generator=generator, dtype=dtype) + 2
    pieces = [(part, torch.zeros(len(part))) for part in x.split(7)]
    model = torch.nn.Sequential(kind(5)).to(dtype)
    risk = EmpiricalRisk(model, pieces, lambda output, target: output.square().mean())
    found = measured_statistics(
        risk.model,
        risk.forward.tensors(risk.point()),
        iter(risk.data),
        dtype,
        risk.forward.through,
    )
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean, variance = (found[f"0.running_{name}"] for name in ("mean", "var"))
    torch.testing.assert_close(mean, x.mean(axes))
    torch.testing.assert_close(variance, x.var(axes))


def test_what_a_gradient_keeps_does_not_depend_on_how_members_go_together(monkeypatch):
    images = torch.randn(32, 1, 8, 8, device="cpu")
    target = torch.zeros(32, dtype=torch.long, device="cpu")
    risk = EmpiricalRisk(small_conv(), (images, target), cross_entropy)
    assert risk.evaluation == "grouped"
    kept = memory._kept(risk, risk.data.first)
    monkeypatch.setattr("landscape.networks.mean.groups_of", lambda *network: None)
    alone = EmpiricalRisk(small_conv(), (images, target), cross_entropy)
    assert alone.evaluation == "sequential"
    assert memory._kept(alone, alone.data.first) == kept
