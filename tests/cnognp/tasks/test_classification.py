"""Macro-F1 beside scikit-learn's, on outputs of every shape and data in any batches."""

import pytest
import torch
from sklearn.metrics import f1_score

from cnognp.tasks import Task, load, macro_f1
from cnognp.tasks.problem import Problem

CPU = torch.device("cpu")


def drawn(seed, n, classes, missing=()):
    """Outputs and targets, some classes never asked for."""
    g = torch.Generator("cpu").manual_seed(seed)
    output = torch.randn(n, classes, generator=g)
    target = torch.randint(0, classes, (n,), generator=g)
    for one in missing:
        target[target == one] = (one + 1) % classes
    return output, target


@pytest.mark.parametrize("missing", [(), (0,), (1, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_one_of_sklearn(seed, missing):
    output, target = drawn(seed, 40, 5, missing)
    if missing:
        output[:, missing[0]] = -9.0  # nor predicted, so that the class does not count
    expected = f1_score(target, output.argmax(-1), average="macro")
    assert float(macro_f1(output.double(), target)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 1), (30,)])
def test_one_logit_says_two_classes(shape):
    output, target = drawn(7, 30, 2)
    logit = (output[:, 1] - output[:, 0]).double()
    expected = f1_score(target, logit > 0, average="macro")
    found = macro_f1(logit.reshape(shape), target.float())
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_no_sample_is_right_or_all_are():
    target = torch.tensor([0, 1, 2])
    assert float(macro_f1(torch.eye(3), target)) == 1
    assert float(macro_f1(torch.eye(3).roll(1, 0), target)) == 0


def test_targets_that_are_no_class_are_left_out():
    output, target = drawn(3, 20, 3)
    target[::4] = -100
    kept = target >= 0
    assert float(macro_f1(output, target)) == float(macro_f1(output[kept], target[kept]))


def test_it_is_of_all_samples_and_no_mean_over_batches():
    inputs, target = drawn(1, 50, 4)
    model = torch.nn.Linear(4, 4)
    batches = [(inputs[a:b], target[a:b]) for a, b in ((0, 3), (3, 11), (11, 50))]
    metrics = {"macro_f1": macro_f1}
    task = Task(model, torch.nn.functional.cross_entropy, batches, metrics=metrics)
    problem = Problem(task, CPU)
    z = problem.as_given.point()
    with torch.no_grad():
        said = model(inputs).argmax(-1)
    found = problem.metrics(z)["train"]["macro_f1"]
    assert found == pytest.approx(f1_score(target, said, average="macro"), abs=1e-12)
    each = [float(macro_f1(model(x), y)) * len(y) for x, y in batches]
    assert abs(found - sum(each) / 50) > 1e-4
    with pytest.raises(ValueError, match="macro_f1 is no mean over batches"):
        problem.metric("macro_f1", z)


@pytest.mark.parametrize("name", ["wine", "breast-cancer", "digits"])
def test_built_in_classifications_have_it(name):
    problem = Problem(load(name), CPU)
    z = problem.as_given.point()
    network = problem.at(z).network(z)
    for split, measured in problem.metrics(z).items():
        inputs, target = getattr(problem.task, split)
        with torch.no_grad():
            output = network(inputs)
        said = output.argmax(-1) if output.shape[-1] > 1 else output.squeeze(-1) > 0
        expected = f1_score(target, said, average="macro")
        assert measured["macro_f1"] == pytest.approx(expected, abs=1e-12)
        assert set(measured) == {"loss", "accuracy", "macro_f1"}
