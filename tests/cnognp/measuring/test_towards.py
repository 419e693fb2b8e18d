"""Slices of the command line: towards other weights, with ends and sides of their own."""

import copy
from pathlib import Path

import pytest
import runs
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from cnognp import tasks
from landscape import results


@pytest.fixture
def call(capsys):
    return runs.calls(capsys)


TASK = """
import torch
from torch import nn
from cnognp.tasks import Task
def make(seed: int = 0):
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), {between}nn.Tanh(), nn.Linear(5, 3))
    data = torch.randn(60, 4, generator=g), torch.randint(0, 3, (60,), generator=g)
    return Task(model=model.eval(), loss=nn.functional.cross_entropy, train=data)
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A task, and the weights of two of its networks in files of either format."""

    def made(between=""):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "t.py").write_text(TASK.format(between=between))
        models = [tasks.load("t.py:make", seed=seed).model for seed in (3, 4)]
        torch.save(models[0].state_dict(), "a.pt")
        save_file({f"module.{n}": t for n, t in models[1].state_dict().items()}, "b.safetensors")
        return models, tasks.load("t.py:make").train

    return made


def between(models, data, alpha):
    """The loss of the network whose parameters lie at ``alpha`` from the first to the second."""
    blend = copy.deepcopy(models[0])
    with torch.no_grad():
        for p, q in zip(blend.parameters(), models[1].parameters(), strict=True):
            p.add_(alpha * (q - p))
        return float(cross_entropy(blend(data[0]), data[1]))


POINT = ("t.py:make", "--point", "a.pt", "--out", "out", "--json")


@pytest.mark.parametrize("span", [["--span", "-0.5:1.5"], ["--span=-0.5:1.5"]])
def test_a_line_towards_other_weights_is_theirs_at_one(call, two, span):
    models, data = two()
    outcome = call(
        "analyze", *POINT, "--only", "line", "--direction", "b.safetensors", *span, "--points", "5"
    )
    assert (outcome.code, outcome.err) == (0, "")
    found = results.load("out/analysis/line.h5")
    assert found.alpha.tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    expected = [between(models, data, alpha) for alpha in found.alpha]
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.direction == "to b.safetensors"
    towards = found.provenance["towards"]
    assert towards["weights"] == "b.safetensors" and towards["removed_prefix"] == "module."
    assert towards["kept"] == [] and found.provenance["weights"] == "a.pt"


@pytest.mark.parametrize("adaptive", [[], ["--adaptive"]])
def test_a_plane_may_have_sides_of_its_own_and_go_to_other_weights(call, two, adaptive):
    models, data = two()
    sizes = ["--grid", "5x4", "--span", "0:1", *adaptive]
    argv = ["analyze", *POINT, "--only", "plane", "--direction", "b.safetensors", *sizes]
    assert call(*argv).code == 0
    found = results.load("out/analysis/plane.h5")
    assert found.loss.shape == (5, 4) and found.beta[[0, -1]].tolist() == [0.0, 1.0]
    expected = [between(models, data, alpha) for alpha in found.alpha]
    assert found.loss[:, 0] == pytest.approx(expected, rel=1e-5)
    assert found.directions == ("to b.safetensors", "random, filter-normalised")


def test_a_direction_is_normalised_where_that_is_asked_for(call, two):
    models, _ = two()
    argv = ["--only", "line", "--direction", "b.safetensors", "--by", "model", "--points", "3"]
    assert call("analyze", *POINT, *argv).code == 0
    found = results.load("out/analysis/line.h5")
    assert found.direction == "to b.safetensors, model-normalised"
    # Biases have no filters, and stay out.
    weights = [p.detach().flatten() for p in models[0].parameters() if p.ndim > 1]
    norm = torch.cat(weights).norm()
    assert found.provenance["lengths"] == pytest.approx([float(norm)], rel=1e-5)


def test_what_does_not_move_along_a_line_is_said(call, two):
    two("nn.BatchNorm1d(5), ")
    state = {n: t + 1 if "running" in n else t for n, t in load_file("b.safetensors").items()}
    save_file(state, "b.safetensors")
    argv = ["--only", "line", "--direction", "b.safetensors", "--points", "3"]
    outcome = call("analyze", *POINT, *argv)
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert "1.running_mean, 1.running_var" in line and "not all of b.safetensors" in line
    kept = results.load("out/analysis/line.h5").provenance["towards"]["kept"]
    assert kept == ["1.running_mean", "1.running_var"]


def test_a_run_is_measured_towards_other_weights_too(call, tmp_path):
    wine = tmp_path / "wine"
    assert runs.forks()(runs.train(wine, members=4, iterations=3))[0].code == 0
    best = load_file(wine / "best.safetensors")
    torch.save({"model": {n: t + 0.1 for n, t in best.items()}}, tmp_path / "c.pt")
    argv = ["--only", "line", "--direction", tmp_path / "c.pt", "--span", "0:1"]
    outcome = call("analyze", wine, "--out", tmp_path, *argv)
    assert (outcome.code, outcome.err) == (0, "")
    found = results.load(tmp_path / "analysis" / "line.h5")
    assert found.provenance["towards"]["weights_entry"] == "model"
    count = sum(t.numel() for t in best.values())
    assert found.provenance["lengths"] == pytest.approx([0.1 * count**0.5], rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--grid 3x", 2, "--grid: expected points such as 41, or 41x21, got 3x"),
        ("--grid 3x4x5", 2, "got 3x4x5"),
        ("--grid 2.5", 2, "got 2.5"),
        ("--grid 1x5", 2, "grid must be at least 2, got (1, 5)"),
        ("--span 1:", 2, "--span: expected a number such as 0.5, or two such as -0.5:1, got 1:"),
        ("--span a", 2, "got a"),
        ("--span 2:1", 2, "span must be a lower and a higher number, got (2.0, 1.0)"),
        ("--span 0:inf", 2, "span must be a lower and a higher number"),
        ("--span -1", 2, "span must be positive and finite, got -1.0"),
        ("--direction none.pt", 2, "no file none.pt"),
        ("--direction b.txt", 2, "gradient, pca, or a file of weights (.safetensors, .pt"),
        ("--direction a.pt", 2, "are those of the point itself"),
        ("--direction t.pt", 3, "no whole file of torch.save"),
        ("--direction other.pt", 3, "missing: 0.weight, 0.bias, 2.weight, 2.bias"),
        ("--direction b.safetensors --seeds 3", 2, "seeds make a band of random directions"),
    ],
)
def test_slices_that_cannot_be_are_refused_in_one_line(call, two, flags, code, said):
    two()
    Path("t.pt").write_bytes(b"text")
    torch.save({"w": torch.ones(1)}, "other.pt")
    outcome = call("analyze", *POINT, "--only", "line,plane", *flags.split())
    assert (outcome.code, outcome.out) == (code, "")
    (line,) = outcome.err.splitlines()
    assert said in line and not Path("out").exists()
