"""Tasks: what they refuse, where populations start, how data are split, files of the user's own."""

import copy
import csv
import inspect
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from cnognp.tasks import (
    TASKS,
    Task,
    TaskError,
    census,
    describe,
    images,
    initial_population,
    load,
    tabular,
)
from cnognp.tasks.networks import mlp
from cnognp.tasks.registry import builder
from cnognp.tasks.tabular import held_out, split
from cnognp.tasks.task import accuracy, binary_accuracy, binary_cross_entropy
from landscape.networks.data import Data
from landscape.networks.layout import Layout
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import value

ADULT = Path(__file__).resolve().parents[4] / "shared" / "data" / "adult"
EMBEDDED = ("wine", "breast-cancer", "digits")
SOURCES = {
    "wine": sklearn.datasets.load_wine,
    "breast-cancer": sklearn.datasets.load_breast_cancer,
    "digits": sklearn.datasets.load_digits,
}


def splits_of(task):
    return {"train": task.train, "validation": task.validation, "test": task.test}


def tensor(values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype, device="cpu")


def batch(rows=4, columns=3):
    inputs = torch.zeros(rows, columns, device="cpu", dtype=torch.float32)
    return inputs, torch.zeros(rows, device="cpu", dtype=torch.int64)


def task_of(model=None, **changes):
    fields = {"model": model or mlp(3, (4,), 2), "loss": F.cross_entropy, "train": batch()}
    return Task(**{**fields, **changes})


class Numbers(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return torch.full((3,), float(index), device="cpu"), index % 2


# What a task is


def test_a_task_takes_batches_datasets_and_loaders():
    loader = DataLoader(Numbers(5), batch_size=2)
    pair = batch()
    task = task_of(train=pair, validation=loader, test=[batch(2), batch(3)])
    assert task.train is pair
    assert task.validation is loader
    assert [len(y) for _, y in task.test] == [2, 3]
    assert task.metrics == {} and task.initial is None and task.name == ""


def test_a_dataset_is_read_as_one_batch_in_order():
    for data in (Numbers(600), TensorDataset(*batch(600))):
        assert task_of(train=data).train is data
    (read,) = Data(task_of(train=Numbers(600)).train)
    assert torch.equal(read.inputs[:, 0], torch.arange(600, dtype=torch.float32, device="cpu"))


def test_a_stream_without_length_is_accepted():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from (Numbers(3)[i] for i in range(3))

    assert Data(task_of(train=Stream()).train).samples == 3


def test_inputs_may_be_tuples_and_dictionaries_of_tensors():
    x, y = batch()
    task_of(train=((x, x), y), validation=({"x": x, "mask": y}, y), test={"x": x, "labels": y})


def test_a_task_cannot_be_changed_and_keeps_its_own_metrics():
    metrics = {"accuracy": accuracy}
    task = task_of(metrics=metrics)
    metrics.clear()
    assert task.metrics == {"accuracy": accuracy}
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        task.name = "other"


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": F.relu}, r"model must be a torch\.nn\.Module, got function"),
    ({"loss": "mse"}, r"loss must be a function \(output, target\), got str"),
    ({"metrics": [accuracy]}, "metrics must map names to functions .* got list"),
    ({"metrics": {"f1": 0.5}}, "metric 'f1' must be a function .* got float"),
    ({"initial": 3}, r"initial must be a function \(layout, generator\), got int"),
    ({"test": 7}, r"test must be a pair of tensors \(inputs, target\).* got int"),
    ({"train": (batch()[0], [0, 1, 0, 1])}, r"train: target\[0\] must be a tensor, got int"),
])  # fmt: skip
def test_a_task_refuses_things_of_the_wrong_kind(changes, message):
    # Unwrapped, since the type checker of the test run would speak first.
    fields = {"model": mlp(3, (4,), 2), "loss": F.cross_entropy, "train": batch(), **changes}
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(Task.__init__)(object.__new__(Task), **fields)


@pytest.mark.parametrize(("changes", "message"), [
    ({"train": None}, "train is None: a task needs data"),
    ({"train": batch(0)}, "train holds no sample"),
    ({"test": []}, "test holds no batch"),
    ({"train": Numbers(0)}, "train holds no sample"),
    ({"train": (*batch(), batch()[0])}, r"train must be a pair \(inputs, target\), got 3 items"),
    ({"validation": (batch(4)[0], batch(5)[1])},
     "validation: the tensors must have one number of rows, got inputs 4, target 5"),
    ({"test": [batch(), (batch(4)[0], batch(2)[1])]}, "test batch 1: .* got inputs 4, target 2"),
    ({"train": (batch()[0], tensor(1.0))}, "train: target has no axis of samples"),
])  # fmt: skip
def test_a_task_refuses_data_that_do_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        task_of(**changes)


@pytest.mark.parametrize("split_name", ["train", "validation", "test"])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_is_located(split_name, bad):
    inputs, target = batch(6, 5)
    inputs[4, 2] = float(bad)
    inputs[5, 0] = float(bad)
    with pytest.raises(
        ValueError, match=rf"^{split_name}: inputs hold {bad} at row 4, column 2 \(2 such values"
    ):
        task_of(**{split_name: (inputs, target)})


def test_a_gap_in_a_target_or_a_picture_is_located():
    x = torch.zeros(3, 1, 2, 2, device="cpu")
    x[1, 0, 1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"at row 1, column \(0, 1, 0\)"):
        task_of(train=(x, batch(3)[1]))
    with pytest.raises(ValueError, match=r"train: target hold nan at row 2 \(1 such"):
        task_of(train=(batch(3)[0], tensor([0.0, 1.0, float("nan")])))


# Where a population starts


def test_member_0_is_the_model_and_the_others_are_fresh_draws():
    model = nn.Sequential(nn.Linear(3, 8, device="cpu"), nn.BatchNorm1d(8, device="cpu"))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    z = initial_population(task_of(model), Layout.of(model), members=6, seed=3)
    assert torch.equal(z[0], torch.full_like(z[0], 7.0))
    weights, biases, scale, shift = z[1:, :24], z[1:, 24:32], z[1:, 32:40], z[1:, 40:]
    assert weights.unique().numel() == 5 * 24
    # A linear layer of 3 inputs draws from U(-1/sqrt 3, 1/sqrt 3).
    assert 0.4 < weights.abs().max() <= 3**-0.5 and biases.abs().max() <= 3**-0.5
    assert bool((scale == 1).all()) and not shift.any()


def test_members_depend_on_seed_and_number_but_not_on_how_many_there_are():
    model = nn.Linear(3, 2, device="cpu")
    task, layout = task_of(model), Layout.of(model)
    four = initial_population(task, layout, 4, seed=1)
    assert torch.equal(four, initial_population(task, layout, 9, seed=1)[:4])
    other = initial_population(task, layout, 4, seed=2)
    assert torch.equal(four[0], other[0])
    assert not (four[1:] == other[1:]).any()


def test_starts_do_not_depend_on_default_device_or_random_state_and_change_neither():
    model = nn.Linear(3, 2, device="cpu")
    task, layout = task_of(model), Layout.of(model)
    before = copy.deepcopy(model.state_dict())
    expected = initial_population(task, layout, 3, seed=1)
    torch.rand(5, device="cpu")
    state = torch.get_rng_state()
    torch.set_default_device("meta")
    try:
        found = initial_population(task, layout, 3, seed=1)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, expected)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_starts_come_in_the_dtype_and_on_the_device_asked_for():
    model = nn.Linear(3, 2, device="cpu")
    single = initial_population(task_of(model), Layout.of(model), 2, 0)
    double = initial_population(task_of(model), Layout.of(model), 2, 0, "cpu", torch.float64)
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), single)
    meta = initial_population(task_of(model), Layout.of(model), 2, 0, torch.device("meta"))
    assert meta.device.type == "meta" and meta.shape == (2, 8)


def test_a_parent_that_initialises_its_children_has_the_last_word():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = nn.Linear(3, 2, device="cpu")
            self.scale = nn.Parameter(torch.zeros(1, device="cpu"))

        def reset_parameters(self):
            self.child.reset_parameters()
            nn.init.constant_(self.child.bias, 5.0)
            nn.init.uniform_(self.scale, 1.0, 2.0)

    model = Parent()
    layout = Layout.of(model)
    tensors = layout.unflatten(initial_population(task_of(model), layout, 3, 0)[1:])
    assert bool((tensors["child.bias"] == 5).all())
    assert bool((tensors["scale"] >= 1).all())


def test_attention_is_reset_too():
    model = nn.MultiheadAttention(4, 2, device="cpu")
    layout = Layout.of(model)
    tensors = layout.unflatten(initial_population(task_of(model), layout, 2, 0))
    assert not torch.equal(*tensors["in_proj_weight"])
    assert not torch.equal(*tensors["out_proj.weight"])


def test_parameters_of_modules_without_reset_and_frozen_ones_keep_their_values():
    class Shifted(nn.Linear):
        def __init__(self):
            super().__init__(3, 2, device="cpu")
            self.inner = nn.ParameterList([torch.full((2,), 4.0, device="cpu")])

    model = Shifted()
    model.bias.requires_grad_(False)
    bias = model.bias.detach().clone()
    layout = Layout.of(model)
    assert layout.names == ("weight", "inner.0")
    tensors = layout.unflatten(initial_population(task_of(model), layout, 3, 0))
    assert bool((tensors["inner.0"] == 4).all())
    assert torch.equal(model.bias, bias)


def test_members_that_would_all_be_equal_are_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, device="cpu"))

    for model in (Bare(), nn.BatchNorm1d(3, device="cpu")):
        task, layout = task_of(model), Layout.of(model)
        assert initial_population(task, layout, 1, 0).shape == (1, layout.dim)
        name = type(model).__name__
        with pytest.raises(ValueError, match=f"modules of {name} changes no parameter.*initial="):
            initial_population(task, layout, 2, 0)


def test_a_population_needs_a_member():
    task = task_of()
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        initial_population(task, Layout.of(task.model), 0, 0)


def test_initial_gives_every_member_but_the_first():
    def near(layout, generator):
        noise = torch.randn(layout.dim, generator=generator, device="cpu")
        return 100 + 1e-3 * (noise + torch.rand(layout.dim, device="cpu"))

    task = task_of(initial=near)
    layout = Layout.of(task.model)
    state = torch.get_rng_state()
    z = initial_population(task, layout, 4, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(z, initial_population(task, layout, 4, seed=5))
    assert z[0].abs().max() < 2
    assert (z[1:] - 100).abs().max() < 0.01
    assert len({tuple(row.tolist()) for row in z}) == 4


@pytest.mark.parametrize(("result", "error", "message"), [
    (torch.zeros(3, device="cpu"), ValueError, r"vector of shape \(26,\), got \(3,\)"),
    (torch.full((26,), float("inf"), device="cpu"), ValueError, "number that is not finite"),
    (torch.zeros(26, device="cpu", dtype=torch.int64), TypeError, "got a tensor of torch.int64"),
    ([0.0] * 26, TypeError, "must return a floating-point vector, got list"),
])  # fmt: skip
def test_initial_must_give_a_finite_vector(result, error, message):
    task = task_of(initial=lambda layout, generator: result)
    with pytest.raises(error, match=message):
        initial_population(task, Layout.of(task.model), 2, 0)


# Metrics and losses


def test_metrics_and_loss_of_one_logit_agree_with_two_outputs():
    generator = torch.Generator(device="cpu").manual_seed(0)
    logit = torch.randn(50, 1, generator=generator, device="cpu", dtype=torch.float64)
    target = (torch.rand(50, generator=generator, device="cpu") > 0.5).float()
    two = torch.cat([torch.zeros_like(logit), logit], dim=1)
    torch.testing.assert_close(
        binary_cross_entropy(logit, target), F.cross_entropy(two, target.long())
    )
    assert float(binary_accuracy(logit, target)) == float(accuracy(two, target.long()))
    right = sum(int(x > 0) == int(y) for x, y in zip(logit[:, 0], target, strict=True))
    assert float(binary_accuracy(logit, target)) == pytest.approx(right / 50)


# The built-in tasks


@pytest.mark.parametrize(("name", "keywords", "parameters"), [
    ("wine", {}, 173), ("breast-cancer", {}, 321), ("digits", {}, 2410),
    ("digits", {"network": "conv"}, 4650), ("wine", {"hidden": (5, 4)}, 70 + 24 + 15),
])  # fmt: skip
def test_networks_have_the_expected_number_of_parameters(name, keywords, parameters):
    task = load(name, **keywords)
    assert Layout.of(task.model).dim == parameters
    assert task.name == name


@pytest.mark.parametrize(("name", "sizes"), [
    ("wine", (106, 36, 36)), ("breast-cancer", (341, 114, 114)), ("digits", (1079, 359, 359)),
])  # fmt: skip
def test_splits_have_sixty_twenty_and_twenty_percent(name, sizes):
    task = load(name)
    for (inputs, target), size in zip(splits_of(task).values(), sizes, strict=True):
        assert len(inputs) == len(target) == size
        assert inputs.dtype == torch.float32 and inputs.device.type == "cpu"
        assert target.ndim == 1
    assert sum(sizes) == len(SOURCES[name]().target)


@pytest.mark.parametrize("name", EMBEDDED)
def test_splits_are_disjoint_complete_stratified_and_follow_from_the_seed(name):
    target = SOURCES[name]().target
    rows, n = split(target, 0), len(target)
    assert sorted(np.concatenate(rows)) == list(range(n))
    for part, slack in zip(rows, (2.5, 1.5, 1.0), strict=True):
        # Largest remainders are off by less than 1 in the test split; the next draw adds 1.25.
        for label, in_all in Counter(target).items():
            assert abs((target[part] == label).sum() - in_all * len(part) / n) < slack
    assert all(np.array_equal(a, b) for a, b in zip(rows, split(target, 0), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(rows, split(target, 1), strict=True))


def test_draws_for_different_purposes_differ():
    rows, target = np.arange(40), np.arange(40) % 2
    draws = [held_out(rows, target, 10, 0, purpose) for purpose in ("a", "a", "b")]
    assert np.array_equal(draws[0][1], draws[1][1])
    assert not np.array_equal(draws[0][1], draws[2][1])


@pytest.mark.parametrize("name", ["wine", "breast-cancer"])
def test_training_inputs_have_mean_0_and_deviation_1(name):
    task, source = load(name, seed=4), SOURCES[name]()
    train = task.train[0].double().numpy()
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-7)
    rows = split(source.target, 4)
    mean, deviation = source.data[rows.train].mean(0), source.data[rows.train].std(0)
    for part, (inputs, target) in zip(rows, splits_of(task).values(), strict=True):
        expected = (source.data[part] - mean) / deviation
        np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(target.numpy(), source.target[part])


@pytest.mark.parametrize("name", ["wine", "breast-cancer"])
def test_nothing_is_fitted_on_held_out_rows(name, monkeypatch):
    expected, source = load(name), SOURCES[name]()
    rows, data = split(source.target, 0), source.data.copy()
    data[np.concatenate([rows.validation, rows.test])] *= 1000
    loader = f"load_{name.replace('-', '_')}"
    monkeypatch.setattr(tabular, loader, lambda return_X_y: (data, source.target))
    found = load(name)
    assert torch.equal(found.train[0], expected.train[0])
    assert not torch.equal(found.test[0], expected.test[0])


def test_digits_are_pixels_between_0_and_1_in_the_shape_that_the_network_takes():
    source = sklearn.datasets.load_digits()
    rows = split(source.target, 2)
    flat, pictures = load("digits", seed=2), load("digits", seed=2, network="conv")
    for part, a, b in zip(
        rows, splits_of(flat).values(), splits_of(pictures).values(), strict=True
    ):
        np.testing.assert_array_equal(a[0].numpy() * 16, source.data[part])
        np.testing.assert_array_equal(b[0][:, 0].numpy() * 16, source.images[part])
        assert torch.equal(a[1], b[1])
    with pytest.raises(ValueError, match="network must be 'mlp' or 'conv', got 'vit'"):
        inspect.unwrap(images.digits)(network="vit")


@pytest.mark.parametrize(("name", "keywords"), [
    ("wine", {}), ("breast-cancer", {}), ("digits", {}), ("digits", {"network": "conv"}),
])  # fmt: skip
def test_tasks_and_their_populations_follow_from_the_seed(name, keywords):
    tasks = [load(name, seed=seed, **keywords) for seed in (3, 3, 4)]
    z = [initial_population(task, Layout.of(task.model), 3, seed=0) for task in tasks]
    assert torch.equal(z[0], z[1])
    assert not torch.equal(z[0][0], z[2][0])
    assert torch.equal(z[0][1:], z[2][1:])
    for a, b in zip(splits_of(tasks[0]).values(), splits_of(tasks[1]).values(), strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert not torch.equal(tasks[0].train[0], tasks[2].train[0])


def test_members_of_a_built_in_task_have_the_initialisation_of_its_network():
    task = load("wine")
    layout = Layout.of(task.model)
    tensors = layout.unflatten(initial_population(task, layout, 50, seed=1))
    assert not tensors["0.bias"].any() and not tensors["2.bias"].any()
    bound = (6 / 23) ** 0.5
    assert 0.95 * bound < tensors["0.weight"].abs().max() <= bound


@pytest.mark.parametrize(("name", "keywords"), [
    ("wine", {}), ("breast-cancer", {}), ("digits", {}), ("digits", {"network": "conv"}),
])  # fmt: skip
def test_risks_of_a_built_in_task_equal_the_model_called_directly(name, keywords):
    task = load(name, **keywords)
    model = copy.deepcopy(task.model).eval()
    for inputs, target in splits_of(task).values():
        risk = EmpiricalRisk(task.model, (inputs, target), task.loss)
        metric = EmpiricalRisk(task.model, (inputs, target), task.metrics["accuracy"])
        with torch.no_grad():
            output = model(inputs)
        assert float(value(risk, risk.point())) == pytest.approx(
            float(task.loss(output, target)), rel=1e-5
        )
        labels = output.argmax(1) if output.shape[1] > 1 else (output[:, 0] > 0).to(target.dtype)
        share = float((labels == target).float().mean())
        assert float(value(metric, metric.point())) == pytest.approx(share, abs=1e-6)


def in_fresh_interpreter(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_listing_tasks_and_their_keywords_needs_neither_torch_nor_scikit_learn():
    in_fresh_interpreter("""
import inspect, sys
from cnognp.tasks import TASKS, describe
assert len(describe()) == len(TASKS) == 12
assert inspect.signature(TASKS["digits"]).parameters["network"].default == "mlp"
heavy = {"torch", "sklearn", "scipy", "numpy", "landscape"} & set(sys.modules)
assert not heavy, heavy
""")


@pytest.mark.slow
def test_loading_and_starting_draw_from_no_global_generator():
    # A fresh interpreter, since the type checker of the test run draws from Python's generator.
    in_fresh_interpreter("""
import random
import numpy, torch
import sklearn.datasets  # its import draws, once
from cnognp.tasks import initial_population, load
from landscape.networks.layout import Layout
before = random.getstate(), numpy.random.get_state()[1].copy(), torch.get_rng_state()
for name, keywords in (("wine", {}), ("breast-cancer", {}), ("digits", {"network": "conv"})):
    task = load(name, seed=1, **keywords)
    initial_population(task, Layout.of(task.model), 3, 0)
assert before[0] == random.getstate()
assert (before[1] == numpy.random.get_state()[1]).all()
assert torch.equal(before[2], torch.get_rng_state())
""")


def test_the_list_of_tasks_is_read_only_and_described_in_one_line_each():
    with pytest.raises(TypeError, match="does not support item assignment"):
        TASKS["mine"] = TASKS["wine"]
    assert describe().keys() == TASKS.keys()
    assert all(0 < len(line) <= 100 and line.endswith(".") for line in describe().values())


# Adult


def row(age=30.0, work="Private", income="<=50K", country="Cuba"):
    return (
        f"{age}, {work}, 77516, Bachelors, 13, Never-married, Sales, Husband, White, Male, "
        f"{int(age * 10)}, 0, 40, {country}, {income}"
    )


def written(folder, data, test):
    folder.mkdir(exist_ok=True)
    (folder / "adult.data").write_text("\n".join(data) + "\n\n")
    (folder / "adult.test").write_text("\n".join(["|1x3 Cross validator", *test]) + "\n\n")
    return str(folder)


def synthetic():
    data = [
        row(20 + k, ["Private", "State-gov"][k % 2], ["<=50K", ">50K"][k % 3 == 0])
        for k in range(60)
    ]
    data[7] = row(work="?", income=">50K")
    test = [row(50 + k, "Private", [">50K.", "<=50K."][k % 2]) for k in range(8)]
    return data, test


def rows_of(data, seed):
    """Which rows of adult.data are trained on, and which are held out."""
    incomes, rows = np.array([line.split(", ")[-1] for line in data]), np.arange(len(data))
    return held_out(rows, incomes, round(0.2 * len(rows)), seed, "validation")


def test_adult_holds_a_fifth_out_and_keeps_the_test_file_apart(tmp_path):
    data, test = synthetic()
    task = load("adult", data=written(tmp_path, data, test))
    assert [len(y) for _, y in splits_of(task).values()] == [48, 12, 8]
    assert task.test[1].tolist() == [1, 0] * 4
    rich = sum(int(y.sum()) for _, y in (task.train, task.validation))
    assert rich == sum(line.endswith(">50K") for line in data)
    # 6 numbers, 2 workclasses and one category each of the 7 other columns.
    assert {x.shape[1] for x, _ in splits_of(task).values()} == {6 + 2 + 7}
    assert Layout.of(task.model).dim == 15 * 10 + 10 + 22


def test_adult_standardises_numbers_and_fills_gaps_with_what_training_rows_say(tmp_path):
    data, test = synthetic()
    kept, drawn = rows_of(data, seed=0)
    for where in (kept[3], drawn[0]):
        data[where] = data[where].replace(data[where].split(",")[0], "?", 1)
    kinds = Counter(data[k].split(", ")[1] for k in kept)
    del kinds["?"]
    assert kinds["Private"] != kinds["State-gov"]
    test[0] = row(work="?", income=">50K.")
    test[1] = row(work="Never-worked", country="France", income="<=50K.")
    task = load("adult", data=written(tmp_path, data, test))
    inputs = task.train[0].double().numpy()
    np.testing.assert_allclose(inputs[:, 0].mean(), 0, atol=1e-7)
    np.testing.assert_allclose(inputs[:, 0].std(), 1, atol=1e-7)
    # A filled gap is the training mean, which standardises to 0.
    assert inputs[3, 0] == pytest.approx(0, abs=1e-7)
    assert float(task.validation[0][0, 0]) == pytest.approx(0, abs=1e-7)
    assert set(np.unique(inputs[:, 6:])) == {0.0, 1.0}
    mode = ["Private", "State-gov"].index(kinds.most_common(1)[0][0])
    assert task.test[0][0, 6:8].tolist() == [float(mode == 0), float(mode == 1)]
    assert task.test[0][1, 6:8].tolist() == [0, 0]
    assert float(task.test[0][1, 6:].sum()) == 6


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_of_adult_is_fitted_on_held_out_rows(tmp_path, seed):
    data, test = synthetic()
    before = load("adult", seed=seed, data=written(tmp_path / "a", data, test))
    _, drawn = rows_of(data, seed)
    for k in drawn:
        income = data[k].split(", ")[-1]
        data[k] = row(9000 + k, "Without-pay", income, country="Peru")
    test = [row(700, "?", ">50K.", country="Peru") for _ in range(30)]
    after = load("adult", seed=seed, data=written(tmp_path / "b", data, test))
    assert torch.equal(before.train[0], after.train[0])
    assert torch.equal(before.train[1], after.train[1])
    assert not torch.equal(before.validation[0], after.validation[0])


@pytest.mark.parametrize(("line", "message"), [
    ("1, 2, 3", r"adult\.data, line 3: 15 cells were expected, got 3"),
    (row(income="50K"), r"adult\.data, line 3: income must be one of .* got '50K'"),
    (row().replace("30.0", "old", 1), "line 3: age must be a finite number or '[?]', got 'old'"),
    (row().replace("30.0", "nan", 1), "line 3: age must be a finite number or '[?]', got 'nan'"),
])  # fmt: skip
def test_lines_that_are_not_adult_are_located(tmp_path, line, message):
    data, test = synthetic()
    data[2] = line
    with pytest.raises(ValueError, match=message):
        load("adult", data=written(tmp_path, data, test))


def test_missing_or_empty_adult_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adult\.data: data must be a folder with"):
        load("adult", data=str(tmp_path))
    with pytest.raises(ValueError, match=r"adult\.test holds no rows"):
        load("adult", data=written(tmp_path, synthetic()[0], []))


def openml(data, test, first):
    """What scikit-learn gives for the lines of both files: codes for words, NaN for gaps."""
    lines = data + test if first == "data" else test + data
    cells = [line.rstrip(".").split(", ") for line in lines]
    names = ["age", "workclass", "fnlwgt", "education", "education-num", "marital-status"]
    names += ["occupation", "relationship", "race", "sex", "capital-gain", "capital-loss"]
    names += ["hours-per-week", "native-country"]
    columns, categories = [], {}
    for j, name in enumerate(names):
        column = [row[j] for row in cells]
        if name not in census._NUMERIC:
            categories[name] = sorted({word for word in column if word != "?"})
            column = [categories[name].index(w) if w != "?" else "nan" for w in column]
        columns.append([float(x) for x in column])
    return SimpleNamespace(
        data=np.array(columns).T, target=np.array([row[-1] for row in cells], dtype=object),
        feature_names=names, categories=categories,
    )  # fmt: skip


@pytest.mark.parametrize("first", ["data", "test"])
def test_adult_from_openml_equals_adult_from_files(tmp_path, monkeypatch, first):
    data, test = synthetic()
    data[0] = row(39)
    test[0] = row(25, income=">50K.").replace("77516", "226802")
    expected = load("adult", data=written(tmp_path, data, test))
    asked = {}

    def fetch(name, **keywords):
        asked.update(keywords, name=name)
        return openml(data, test, first)

    monkeypatch.setattr(census, "fetch_openml", fetch)
    monkeypatch.setattr(census, "_ROWS", (60, 8))
    found = load("adult")
    assert (asked["name"], asked["version"]) == ("adult", 2)
    for a, b in zip(splits_of(found).values(), splits_of(expected).values(), strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_adult_from_openml_in_another_order_is_refused(monkeypatch):
    data, test = synthetic()
    monkeypatch.setattr(census, "fetch_openml", lambda *_, **__: openml(data, test, "data"))
    monkeypatch.setattr(census, "_ROWS", (60, 8))
    with pytest.raises(RuntimeError, match="not the two original files one after the other"):
        load("adult")


def test_adult_without_files_and_network_says_what_to_do(monkeypatch):
    def fetch(*_, **__):
        warnings.warn("A network error occurred while downloading. Retrying...", stacklevel=1)
        raise OSError("no route to host")

    monkeypatch.setattr(census, "fetch_openml", fetch)
    with pytest.raises(RuntimeError, match="OSError: no route to host.*data=FOLDER"):
        load("adult")


@pytest.mark.slow
def test_the_original_adult_files_are_read_whole_and_no_gap_is_a_category():
    if not ADULT.is_dir():
        pytest.skip("the Adult files are not beside the checkout")
    tables = []
    for name in ("adult.data", "adult.test"):
        with (ADULT / name).open() as lines:
            tables.append([line for line in csv.reader(lines) if len(line) == 15])
    assert [sum(" ?" in line for line in table) for table in tables] == [2399, 1221]
    rich = [sum(">50K" in line[-1] for line in table) for table in tables]
    task = load("adult", data=str(ADULT))
    assert [len(y) for _, y in splits_of(task).values()] == [26049, 6512, 16281]
    assert sum(int(y.sum()) for _, y in (task.train, task.validation)) == rich[0]
    assert int(task.test[1].sum()) == rich[1]
    inputs = task.train[0].double().numpy()
    np.testing.assert_allclose(inputs[:, :6].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(inputs[:, :6].std(0), 1, atol=1e-6)
    # 8 + 16 + 7 + 14 + 6 + 5 + 2 + 41 categories; each row has one of each column.
    assert inputs.shape[1] == 105
    assert set(inputs[:, 6:].sum(1)) == {8.0}


# Files of the user's own

GOOD = """
import torch
from cnognp.tasks import Task

def make_task(seed: int = 0, rows: int = 6) -> Task:
    g = torch.Generator(device="cpu").manual_seed(seed)
    x = torch.rand(rows, 3, generator=g, device="cpu")
    model = torch.nn.Linear(3, 2, device="cpu")
    y = torch.zeros(rows, dtype=torch.int64, device="cpu")
    return Task(model, own_loss, (x, y))

def own_loss(output, target):
    return torch.nn.functional.cross_entropy(output, target)

def plain():
    return make_task(5)

def needy(path, *, size):
    return make_task(size)

def anything(**keywords):
    return make_task(**keywords)

def nothing():
    pass

def broken(seed=0):
    return helper(seed)

def helper(x):
    return {}["absent"]

def gap():
    x, y = torch.full((2, 3), float("nan"), device="cpu"), torch.zeros(2, device="cpu")
    return Task(torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, (x, y))

not_a_function = 3
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "my_task.py"
    path.write_text(GOOD)
    return path


def test_a_file_of_ones_own_gives_a_task(user_file):
    task = load(f"{user_file}:make_task", seed=3, rows=4)
    generator = torch.Generator(device="cpu").manual_seed(3)
    assert torch.equal(task.train[0], torch.rand(4, 3, generator=generator, device="cpu"))


def test_a_function_without_seed_is_called_without_it(user_file):
    task = load(f"{user_file}:plain", seed=3)
    assert torch.equal(task.train[0], load(f"{user_file}:anything", seed=5).train[0])


def test_the_builder_of_a_task_shows_its_keywords_without_calling_it(user_file):
    assert builder("wine") is TASKS["wine"]
    assert list(inspect.signature(builder(f"{user_file}:make_task")).parameters) == ["seed", "rows"]
    assert builder(f"{user_file}:broken").__name__ == "broken"
    with pytest.raises(ValueError, match="Did you mean 'wine'"):
        builder("wines")


def test_a_file_is_read_afresh_each_time(user_file):
    assert len(load(f"{user_file}:make_task").train[0]) == 6
    user_file.write_text(GOOD.replace("rows: int = 6", "rows: int = 7"))
    assert len(load(f"{user_file}:make_task").train[0]) == 7
    assert not (user_file.parent / "__pycache__").exists()


def test_files_of_one_name_do_not_meet_and_may_import_their_neighbours(tmp_path, user_file):
    other = tmp_path / "other"
    other.mkdir()
    (other / "its_neighbour_of_tests.py").write_text("ROWS = 9\n")
    (other / "my_task.py").write_text(
        "from its_neighbour_of_tests import ROWS\n" + GOOD.replace("int = 6", "int = ROWS")
    )
    path = list(sys.path)
    try:
        first, second = load(f"{user_file}:make_task"), load(f"{other / 'my_task.py'}:make_task")
        assert (len(first.train[0]), len(second.train[0])) == (6, 9)
        assert sys.path == path
        assert "my_task" not in sys.modules
        for task in (first, second):
            assert sys.modules[task.loss.__module__].own_loss is task.loss
    finally:
        sys.modules.pop("its_neighbour_of_tests", None)


@pytest.mark.parametrize(("spec", "message"), [
    ("wein", r"no task is called 'wein'\. Did you mean 'wine'\? Built in: adult, breast-cancer"),
    ("Breast_Cancer", "Did you mean 'breast-cancer'"),
    ("zzz", r"no task is called 'zzz'\. Built in: .* path/to/file\.py:function"),
    ("/nowhere/task.py:make", r"no file .*task\.py, so no task .*task\.py:make"),
    ("task.py", r"task\.py names a file but no function in it; write task\.py:FUNCTION"),
])  # fmt: skip
def test_unknown_tasks_are_refused_with_advice(spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec)


@pytest.mark.parametrize(("call", "message"), [
    ("make_tsk", r"has no function 'make_tsk'; its functions: make_task, own_loss, plain, needy"),
    ("not_a_function", "has no function 'not_a_function'"),
    ("needy", r"my_task\.py:needy needs a value for path, size"),
])  # fmt: skip
def test_functions_that_cannot_be_called_are_refused(user_file, call, message):
    with pytest.raises(ValueError, match=message):
        load(f"{user_file}:{call}")


def test_keywords_that_a_task_does_not_take_are_refused(user_file):
    with pytest.raises(ValueError, match="wine takes no depth; it takes: seed, hidden"):
        load("wine", depth=3)
    with pytest.raises(ValueError, match="plain takes no rows, width; it takes: nothing"):
        load(f"{user_file}:plain", rows=3, width=2, seed=1)


def line_of(text):
    return GOOD[: GOOD.index(text)].count("\n") + 1


def test_a_failure_in_the_users_code_names_the_line_and_keeps_its_cause(user_file):
    where = line_of('{}["absent"]')
    with pytest.raises(
        TaskError, match=rf"my_task\.py, line {where}: KeyError: 'absent'"
    ) as caught:
        load(f"{user_file}:broken")
    assert isinstance(caught.value.__cause__, KeyError)
    where = line_of("return Task(torch.nn.Linear(3, 2)")
    with pytest.raises(
        TaskError, match=rf"line {where}: ValueError: train: inputs hold nan at row 0, column 0"
    ):
        load(f"{user_file}:gap")
    assert isinstance(caught.value, ValueError)


def test_a_function_that_returns_no_task_is_refused(user_file):
    with pytest.raises(TaskError, match=r"my_task\.py:nothing returned NoneType, but a .*Task was"):
        load(f"{user_file}:nothing")


@pytest.mark.parametrize(("text", "message"), [
    ("x = 1\nimport no_such_module_of_tests\n", "line 2: ModuleNotFoundError: No module named"),
    ("x = 1\n\ndef f(:\n", "line 3: SyntaxError"),
])  # fmt: skip
def test_a_file_that_does_not_run_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(TaskError, match=rf"bad\.py, {message}"):
        load(f"{path}:f")
    assert not {name for name in set(sys.modules) - before if "bad" in name}
