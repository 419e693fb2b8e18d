"""Training through torch.compile: the gradients are those without it, and nobody else sees it."""

import os
from dataclasses import replace

import pytest
import runs
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cnognp.tasks.problem import problem_of
from cnognp.training.config import Config, RunFolder
from cnognp.training.session import train
from landscape import results
from landscape.networks.compiled import Compiled, NotCompiled, failure
from landscape.networks.risk import EmpiricalRisk, ModelRisk
from landscape.objective import hvp, value, value_and_grad

# A compiler in a process of its own needs longer to start than all of this takes.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

SAMPLES, SIZE = 22, 8  # the last mini-batch has 6
TASK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from cnognp.tasks import Task


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 3)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        return x if x.sum() > 0 else 2 * x


def make(kind="conv", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(22, 3, 4, 4, generator=generator)
    y = torch.randint(3, (22,), generator=generator)
    model = Branching() if kind == "branching" else nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
        nn.Linear(16, 3),
    )
    return Task(model=model, loss=cross_entropy, train=(x, y), test=(x, y))


def whole(seed=0):
    task = make()
    return Task(
        model=task.model, loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        loss_of="model", train=task.train,
    )
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    return f"{tmp_path / 'task.py'}:make"


def config(task, method="sgd", compile=True, rounds=2, kind="conv", **options):
    given = {"lr": 0.05, "batch_size": SIZE, **options}
    return Config(
        task=task, method=method, members=2, iterations=rounds, seed=1, threads=1, device="cpu",
        compile=compile, checkpoint_every=1, judge_every=1, task_options={"kind": kind},
        method_options=given,
    )  # fmt: skip


def data():
    source = torch.Generator(device="cpu").manual_seed(0)
    inputs = torch.randn(SAMPLES, 3, 4, 4, generator=source)
    return inputs, torch.randint(3, (SAMPLES,), generator=source)


def convolution():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


@pytest.mark.slow
def test_gradients_of_mini_batches_are_those_without_it_random_numbers_included():
    plain = EmpiricalRisk(convolution(), data(), cross_entropy, statistics="batch")
    z = torch.stack([plain.point(), 0.9 * plain.point()])
    streams = [
        risk.minibatches(SIZE, torch.Generator(device="cpu").manual_seed(3), epochs=1)
        for risk in (plain, plain.compiled())
    ]
    seen = []
    for one, other in zip(*streams, strict=True):
        loss, grad = value_and_grad(one, z)
        found, slope = value_and_grad(other, z)
        torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slope, grad, rtol=1e-4, atol=1e-6)
        seen.append(one.samples)
    assert seen == [8, 8, 6]
    # The caller's model is left as it was, and holds no graph.
    assert plain.model.module.training and all(
        p.grad is None for p in plain.model.module.parameters()
    )


def test_a_compiled_network_has_no_second_derivatives_and_what_is_made_of_it_is_plain():
    plain = EmpiricalRisk(convolution().eval(), data(), cross_entropy)
    compiled, z = plain.compiled(), plain.point()
    with pytest.raises(ValueError, match="products with the Hessian are not taken of a compiled"):
        hvp(compiled, z, z)
    for risk in (compiled.reestimated(z), compiled.measuring(cross_entropy)):
        assert risk.forward.compiled is None and not risk.once
        assert hvp(risk, z, z).shape == z.shape
    with pytest.raises(ValueError, match="a loss of the whole model"):
        ModelRisk(
            convolution().eval(),
            data(),
            lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        ).compiled()


@pytest.mark.parametrize("method", [
    "sgd", pytest.param("sam", marks=pytest.mark.slow),
    pytest.param("cnognp", marks=pytest.mark.slow),
])  # fmt: skip
def test_training_ends_where_it_ends_without_it_and_is_judged_without_it(
    task, tmp_path, monkeypatch, method
):
    calls, plain = [], Compiled.__call__
    monkeypatch.setattr(
        Compiled, "__call__", lambda self, *given: (calls.append(0), plain(self, *given))[1]
    )
    ends = {}
    for compile in (False, True):
        given = config(task, method, compile)
        folder = RunFolder(tmp_path / str(compile))
        ends[compile] = train(given, folder).arrays["state/position"]
    # Two members, two epochs of three mini-batches, and the one that was compared.
    assert len(calls) == 1 + 2 * 2 * 3 * (2 if method == "sam" else 1)
    moved = abs(ends[False] - train(config(task, method, False, lr=0.0), RunFolder(tmp_path / "0"))
                .arrays["state/position"]).max()  # fmt: skip
    assert abs(ends[True] - ends[False]).max() < 1e-4 * moved
    history = results.load(folder.analysis / "history.h5")
    judged = problem_of(replace(given, compile=False), data_seed=0, noise_seed=0).evaluation
    assert history.loss[-1].tolist() == value(judged, torch.tensor(ends[True])).tolist()


def test_a_compiled_run_that_was_cut_ends_with_the_same_bits(task, tmp_path):
    given = config(task, rounds=3, momentum=0.9, schedule="cosine", schedule_per="step", horizon=3)
    whole = train(given, RunFolder(tmp_path / "whole"))
    cut, rounds = RunFolder(tmp_path / "cut"), []
    train(given, cut, leave=lambda: rounds.append(0) is None)
    last = train(given, cut, resume=True)
    assert len(rounds) == 1
    for name, array in whole.arrays.items():
        assert array.tobytes() == last.arrays[name].tobytes(), name


def test_curvature_is_recorded_beside_it(task, tmp_path):
    curves = []
    for compile in (False, True):
        given = replace(config(task, compile=compile, rounds=1), record_curvature=1)
        folder = RunFolder(tmp_path / str(compile))
        train(given, folder)
        curves.append(results.load(folder.analysis / "curvature.h5").eigenvalues)
    assert curves[0][0].tolist() == curves[1][0].tolist()
    assert curves[1][-1] == pytest.approx(curves[0][-1], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "a compiled network .*give --method.batch_size"),
        ({"kind": "branching"}, NotCompiled, "made nothing of the network .*leave out --compile"),
    ],
)
def test_what_cannot_be_compiled_is_refused_before_there_is_a_folder(
    task, tmp_path, changes, error, message
):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(error, match=message) as raised:
        train(config(task, **changes), folder)
    assert not folder.path.exists() and "\n" not in str(raised.value)


def test_a_loss_of_the_whole_model_is_refused(task, tmp_path):
    given = replace(config(task.replace(":make", ":whole")), task_options={})
    with pytest.raises(ValueError, match="loss_of='model'"):
        train(given, RunFolder(tmp_path / "run"))


def test_a_graph_that_gives_other_numbers_is_found_out(task, tmp_path, monkeypatch):
    plain = Compiled.__call__
    monkeypatch.setattr(Compiled, "__call__", lambda self, *given: 1.01 * plain(self, *given))
    with pytest.raises(NotCompiled, match="the compiled network is another one: its loss is"):
        train(config(task), RunFolder(tmp_path / "run"))


def test_without_a_compiler_one_line_says_so(task, tmp_path, monkeypatch):
    for name, word in {
        "CXX": str(tmp_path / "none"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }.items():
        monkeypatch.setitem(runs.ENVIRONMENT, name, word)
    argv = runs.train(tmp_path / "run", "--method", "sgd", "--compile", task=task)
    outcome = runs.command(argv, tmp_path)
    assert outcome.code == 1 and len(outcome.err.splitlines()) == 1
    assert "torch.compile has made nothing of the network" in outcome.err
    assert "compiler" in outcome.err and "Nothing of this run was saved yet" in outcome.err
    assert not (tmp_path / "run").exists()


def test_other_errors_are_none_of_the_compiler():
    assert failure(ValueError("x")) == failure(RuntimeError("out of memory")) == ""


def test_compile_is_a_word_of_the_configuration(task):
    assert Config.from_yaml(config(task).to_yaml()).compile is True
    assert config(task).differences(config(task, compile=False)) == ["compile False, not True"]
    message = "compile must be true or false, got 'yes'"
    with pytest.raises(ValueError, match=message), runs.annotations_unchecked():
        replace(config(task), compile="yes")
