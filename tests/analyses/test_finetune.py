"""Equal budgets, paired statistics against SciPy, and the study on a few generated images."""

from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from safetensors.torch import save_file
from scipy import stats

from analyses import finetune
from analyses.budgets import affordable, moments
from analyses.paired import conclusion, differences
from cnognp.methods import METHODS
from cnognp.tasks import TASKS, cifar
from cnognp.tasks.networks import small_conv
from cnognp.tasks.problem import Problem
from cnognp.tasks.tabular import few
from cnognp.tasks.weights import load as load_weights
from cnognp.workers import results_of
from figures import catalogue, style
from figures import finetune as drawing
from landscape.objective import value_and_grad
from landscape.results import load, save
from landscape.results.finetuning import Ending

CPU = torch.device("cpu")
NAN = float("nan")


# Paired differences


def test_intervals_and_p_values_are_those_of_the_paired_t_test():
    source = np.random.default_rng(0)
    ours, theirs = source.normal(size=(2, 4, 7))
    found = differences(ours - theirs, 0.5, 0.9)
    for i in range(4):
        test = stats.ttest_rel(ours[i], theirs[i])
        assert found.p_value[i] == pytest.approx(test.pvalue)
        apart = ours[i] - theirs[i]
        half = stats.t.ppf(0.95, 6) * apart.std(ddof=1) / np.sqrt(7)
        assert found.low[i] == pytest.approx(apart.mean() - half)
        assert found.high[i] == pytest.approx(apart.mean() + half)
    order = np.argsort(found.p_value)
    steps = np.minimum(1, np.maximum.accumulate(found.p_value[order] * [4, 3, 2, 1]))
    np.testing.assert_allclose(found.p_holm[order], steps)


@pytest.mark.parametrize("seed", range(8))
def test_two_are_the_same_where_the_wider_interval_lies_within_the_margin(seed):
    row = np.random.default_rng(seed).normal(0.1, 0.3, size=(1, 9))
    found = differences(row, 0.3, 0.95)
    low, high = stats.t.interval(0.90, 8, row.mean(), stats.sem(row[0]))
    assert (found.p_same[0] < 0.05) == (-0.3 < low and high < 0.3)
    t = (0.3 - abs(row.mean())) / stats.sem(row[0])
    assert found.p_same[0] == pytest.approx(stats.t.sf(t, 8))


def test_differences_that_do_not_vary_or_are_no_numbers_have_what_is_known_of_them():
    rows = np.array([[0.0, 0.0, 0.0], [0.2, 0.2, 0.2], [0.05, 0.05, 0.05], [0.1, NAN, 0.2]])
    found = differences(rows, 0.1, 0.95)
    assert found.p_value[:3].tolist() == [1, 0, 0]
    assert found.p_same[:3].tolist() == [0, 1, 0]
    assert found.low[:3].tolist() == [0, 0.2, 0.05]
    assert np.isnan([column[3] for column in found]).all()
    assert np.isnan(differences(np.ones((1, 1)), 0.1, 0.95).p_value).all()


# Budgets


@pytest.fixture(scope="module")
def wine():
    return Problem(TASKS["wine"](seed=0), CPU, check=False)


def swarm(name="cno", **options):
    return METHODS[name](lr=0.01, batch_size=16, **options)


@pytest.mark.parametrize(
    ("method", "members", "passes"),
    [
        (METHODS["sgd"](lr=0.01, batch_size=16), 1, [1, 2, 3, 4, 5, 6, 7]),
        (METHODS["sam"](lr=0.01, batch_size=16), 1, [2, 4, 6]),
        (METHODS["gcsam"](lr=0.01, batch_size=16), 1, [2, 4, 6]),
        (swarm(), 2, [6]),
        (replace(swarm("cnognp"), local=None, lr=0.1), 2, [4, 6]),
    ],
)
def test_every_method_takes_the_gradients_that_the_budget_pays_for(wine, method, members, passes):
    found = list(moments(wine, method, 2, 7, seed=3))
    assert [each.passes for each in found] == passes
    assert all(each.points.shape == (members, wine.training.dim) for each in found)


def test_a_budget_that_pays_for_no_round_is_refused(wine):
    with pytest.raises(ValueError, match="2 members takes 6 passes .* the budget of 5 does not"):
        affordable(wine.task, swarm(), 2, 5)
    assert [affordable(wine.task, swarm(), 2, n) for n in (6, 9, 10, 14)] == [1, 1, 2, 3]


def test_the_points_are_those_of_the_method(wine):
    one, two = moments(wine, METHODS["sgd"](lr=0.1, batch_size=10**4), 1, 2, seed=0)
    z = one.points
    grad = value_and_grad(wine.training, z)[1]
    torch.testing.assert_close(two.points, z - 0.1 * grad)
    start = wine.training.point()
    torch.testing.assert_close(z[0], start - 0.1 * value_and_grad(wine.training, start)[1])


# The comparison, of endings that are made up

LOSS = {("sgd", 0.01): 0.5, ("sgd", 0.1): 0.4, ("sam", 0.01): 0.2, ("sam", 0.1): NAN}


def made(config, accuracy):
    """Endings in the order of the units, with accuracy(network, method, rate, seed)."""
    return [
        Ending(
            task=network, method=method, rate=rate, seed=seed, scores=finetune.SCORES,
            score=np.array(
                [accuracy(k, method, rate, seed), 1, 1, LOSS.get((method, rate), 0.3), 0]
            ),
            gradients=100.0 - (method == "sam"), seconds=2.0,
        )
        for k, network in enumerate(config.networks)
        for method, rate, seed in finetune._runs(config)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return finetune.Config(methods=("sam", "gnp"), seeds=6, rates=(0.01, 0.1))


@pytest.fixture(scope="module")
def found(config):
    drawn = np.random.default_rng(1).normal(0, 1e-3, size=(2, 6))

    def accuracy(network, method, rate, seed):
        if method == "sam":
            return 0.93 + 0.001 * network + drawn[network, seed]
        return 0.92 + 0.001 * network + 1e-5 * seed * (method == "gnp") - (rate == 0.01) * 0.5

    return finetune.joined(config, made(config, accuracy))["finetune"]


def test_each_method_gets_the_rate_that_validation_prefers_and_nothing_is_chosen_on_test(found):
    assert found.methods == ("pretrained", "sgd", "sam", "gnp")
    assert found.rate[0].tolist() == [0, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(found.accuracy[1, 1], 92.1)
    np.testing.assert_allclose(found.mean[0, 3], 42 + 1e-3 * 2.5)


def test_differences_are_those_of_runs_of_one_seed_and_are_tested_in_pairs(found):
    sam, sgd = found.accuracy[0, 2], found.accuracy[0, 1]
    test = stats.ttest_rel(sam, sgd)
    assert found.difference[0, 2] == pytest.approx((sam - sgd).mean())
    assert found.p_value[0, 2] == pytest.approx(test.pvalue)
    ends = test.confidence_interval(0.95)
    assert (found.low[0, 2], found.high[0, 2]) == pytest.approx((ends.low, ends.high))
    assert found.deviation[0, 2] == pytest.approx(sam.std(ddof=1))
    assert np.isnan(found.difference[:, 1]).all() and found.verdict(0, 1) == ""
    assert found.verdict(0, 2) == "differs"


def test_published_numbers_stand_beside_ours_where_there_are_any(found):
    assert found.published[0].tolist()[:3] == [92.61, 92.68, 92.61]
    assert found.published_deviation[1].tolist()[1:3] == [0.08, 0.11]
    assert np.isnan(found.published[:, 3]).all()
    assert found.gradients[0].tolist() == [100, 100, 99, 100] and found.budget == 100


def test_the_conclusion_says_which_differ_which_are_the_same_and_which_are_open(found):
    row = np.array([0.0, 0.01, -0.01, 0.02, 0.0, -0.02])
    accuracy = found.accuracy.copy()
    accuracy[0, 3] = accuracy[0, 1] + row
    accuracy[1, 3] = accuracy[1, 1] + 20 * row
    tested = differences(np.stack([row, 20 * row]), 0.1, 0.95)
    columns = {name: getattr(found, name).copy() for name in ("low", "high", "p_holm", "p_same")}
    for name, column in columns.items():
        column[:, 3] = getattr(tested, name)
    said = conclusion(replace(found, accuracy=accuracy, **columns))
    differ, same, left = said.split(". ")[:3]
    assert differ.startswith("Different from sgd: sam on resnet20 (+1.")
    assert same.startswith("The same to within 0.1 points: pretrained on resnet20")
    assert "gnp on resnet20" in same
    assert left.startswith("Neither shown") and "gnp on resnet32" in left
    assert "Paired over 6 seeds" in said and "6 comparisons" in said


def test_the_result_survives_a_file_and_has_a_table_for_each_network(found, tmp_path):
    save(found, tmp_path / "it.h5")
    again = load(tmp_path / "it.h5")
    np.testing.assert_array_equal(again.accuracy, found.accuracy)
    assert again.said() == ("compared with sgd: 4 differs, 2 same, 0 open", "6 seeds")
    (title, columns, rows), (_, costs, spent), *_ = again.tables()
    assert costs == ("method", "rate", "gradients", "seconds") and spent[2][2] == "99"
    assert title.startswith("resnet20") and "published" in columns
    assert [row[0] for row in rows] == list(found.methods)
    assert rows[1][2:5] == ("92.68 ± 0.08", "-", "-")


def test_the_picture_shows_the_differences_and_lies_within_its_page(found):
    figure = catalogue.figures_of(found)["differences"]
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height
    assert len(figure.axes) == 2
    drawn = drawing.differences(found, 0, style.new_figure().add_subplot())
    (dot, _, (bar,)) = drawn["interval"][1]
    assert dot.get_xdata()[0] == pytest.approx(found.difference[0, 2])
    np.testing.assert_allclose(
        np.array(bar.get_segments())[0][:, 0], [found.low[0, 2], found.high[0, 2]]
    )
    np.testing.assert_allclose(
        drawn["seeds"][1].get_xdata(), found.accuracy[0, 2] - found.accuracy[0, 1]
    )
    assert drawn["published"][1].get_xdata()[0] == pytest.approx(92.61 - 92.68)


# The study on a few images


class Folder:
    """What of torchvision's class is used, on a few random images."""

    base_folder = "few"
    train_list, test_list, meta = (("one", ""),), (("two", ""),), {"filename": "names"}

    def __init__(self, root, train):
        source = np.random.default_rng(train)
        count = 60 if train else 20
        self.data = source.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [k % 10 for k in range(count)]


def network(*_, generator=None):
    return small_conv(10, (4, 4), 3, 32, generator)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "torchvision", lambda part: SimpleNamespace(CIFAR10=Folder))
    (tmp_path / "few").mkdir()
    for name in ("one", "two", "names"):
        (tmp_path / "few" / name).write_bytes(b"")
    monkeypatch.setattr(cifar, "architecture", network)
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    return finetune.Config(
        data=str(tmp_path), networks=("resnet20",), weights=(str(tmp_path / "w.safetensors"),),
        methods=("sam", "cnognp-ball"), seeds=2, images=20, validation=20, epochs=14, members=2,
        rates=(0.001,), batch=10, measured=10, plane=3, device="cpu",
    )  # fmt: skip


def test_a_few_images_are_as_many_of_each_class_and_others_for_another_seed(tiny):
    task = TASKS["cifar10"](data=tiny.data, validation=20)
    one, two = (few(task, 20, seed) for seed in (0, 1))
    assert torch.bincount(one.train[1]).tolist() == [2] * 10
    assert not torch.equal(one.train[0], two.train[0])
    known = {image.numpy().tobytes() for image in task.train[0]}
    assert {image.numpy().tobytes() for image in one.train[0]} <= known
    assert few(task, 0, 0) is task


def test_the_start_is_the_weights_and_a_run_is_a_function_of_its_argument(tiny):
    begun = replace(tiny, methods=("sgd",), epochs=1)
    parts = {unit.name: unit.argument for unit in finetune.units(begun)}
    start = finetune.ending(parts["resnet20 pretrained 0 seed 1"])
    options = {"mean": begun.mean, "deviation": begun.deviation, "validation": 20}
    task = TASKS["cifar10"](seed=1, data=begun.data, weights=begun.weights[0], **options)
    problem = Problem(few(task, 20, 1), CPU, data_seed=0, noise_seed=0)
    z = problem.training.point()
    there = problem.at(z).network(z)
    share = (there(task.prepare(task.test[0])).argmax(1) == task.test[1]).double().mean()
    assert start["test accuracy"] == pytest.approx(float(share))
    load_weights(Path(begun.weights[0]), model := network())
    seen = task.prepare(task.augment(problem.task.train[0], 0, 0))
    torch.testing.assert_close(there[1].running_mean, model[0](seen).mean((0, 2, 3)))
    assert (start.gradients, start.rate) == (0, 0)
    moved, again = (finetune.ending(parts["resnet20 sgd 0.001 seed 1"]) for _ in range(2))
    assert moved.gradients == 2 and np.array_equal(moved.score, again.score)
    assert moved["validation loss"] != start["validation loss"]


def test_flatness_at_an_end_is_that_of_the_first_training_images_there(tiny):
    (unit,) = [each for each in finetune.units(tiny) if each.name == "resnet20 sgd 0.001 seed 0"]
    end, config = finetune.ending(unit.argument), unit.argument.config
    options = {"mean": config.mean, "deviation": config.deviation, "validation": 20}
    task = few(TASKS["cifar10"](seed=0, data=tiny.data, weights=tiny.weights[0], **options), 20, 0)
    problem = Problem(task, CPU, data_seed=0, noise_seed=0)
    z = deque(moments(problem, config.method("sgd", 0.001), 2, 14, 0), maxlen=1).pop().points[0]
    module = problem.at(z).network(z)
    images, target = task.prepare(task.train[0][:10]), task.train[1][:10]
    loss = torch.nn.functional.cross_entropy(module(images), target)
    slopes = torch.autograd.grad(loss, list(module.parameters()))
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    assert end["gradient-norm"] == pytest.approx(float(norm), rel=1e-4)
    assert end.plane.shape == (3, 3) and end.plane[1, 1] == pytest.approx(loss.item(), rel=1e-5)
    assert end["moved"] == pytest.approx(
        float((z - problem.training.point()).norm() / problem.training.point().norm()), rel=1e-5
    )
    with pytest.raises(KeyError, match="colour"):
        end["colour"]


def test_the_study_spends_equal_budgets_and_is_resumed_run_by_run(tiny, tmp_path):
    folder = tmp_path / "units"
    units = finetune.units(tiny)
    found = finetune.joined(tiny, results_of(units, folder))
    result, flat = found["finetune"], found["flatness-resnet20"]
    assert result.sharpness.shape == (1, 4, 2, 5) and result.planes.shape == (1, 4, 3, 3)
    assert len(flat.points) == 6 and "sam seed 1" in flat.points
    np.testing.assert_array_equal(flat.value[0], result.sharpness[0, 1, 0, :4])
    assert "2 runs are too few" in flat.conclusion
    assert result.methods == ("pretrained", "sgd", "sam", "cnognp-ball")
    assert result.gradients[0].tolist() == [0, 28, 28, 28] and result.budget == 28
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "resnet20-sam-0-001-seed-1.h5" in written and len(written) == 8
    (folder / "resnet20-sgd-0-001-seed-0.h5").unlink()
    more = replace(tiny, margin=1.0)
    again = finetune.joined(more, results_of(finetune.units(more), folder, resume=True))["finetune"]
    np.testing.assert_array_equal(again.accuracy, result.accuracy)
    left = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns == written[path.name]}
    assert len(left) == 7
    save_file(network(generator=torch.Generator().manual_seed(5)).state_dict(), tiny.weights[0])
    assert all(
        new.argument != old.argument
        for new, old in zip(finetune.units(tiny), units, strict=True)
    )  # fmt: skip


def test_weights_that_diverge_are_told_and_not_chosen(tiny):
    wild = replace(tiny, methods=("sgd",), epochs=4, rates=(1e30,))
    parts = {unit.name: unit.argument for unit in finetune.units(wild)}
    lost = finetune.ending(parts["resnet20 sgd 1e+30 seed 0"])
    assert not np.isfinite(lost["validation loss"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ("adam",)}, "methods must be one of sgd, sam, .*got 'adam'"),
        ({"rates": (0.1, 0.1)}, r"rates must differ, at least one, got \[0.1, 0.1\]"),
        ({"seeds": 1}, "seeds must be at least 2, got 1"),
        ({"members": 1}, "members must be at least 2, got 1"),
        ({"margin": 0.0}, "margin must be positive, got 0.0"),
        ({"confidence": 1.0}, "confidence must lie between 0.5 and 1, got 1.0"),
    ],
)
def test_what_cannot_be_compared_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        finetune.Config(**given)


def test_networks_without_weights_are_refused():
    with pytest.raises(ValueError, match="a file for each of resnet20, resnet32, got none"):
        finetune.units(finetune.Config())
