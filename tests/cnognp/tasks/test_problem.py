"""A task as objectives: nothing is cut, weighed or left out behind the user's back."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cnognp.tasks import Task
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config
from cnognp.training.minibatches import fitting, settled
from landscape.objective import value

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5000, 4, generator=GENERATOR)
SORTED = torch.sort(torch.randint(0, 3, (5000,), generator=GENERATOR)).values
RARE = (torch.rand(5000, generator=GENERATOR) < 0.001).float()
WEIGHT = torch.tensor([1.0, 3.0, 6.0])


def network(norm=False):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        middle = [nn.BatchNorm1d(5)] if norm else []
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 3))


def weighted(output, target):
    return F.cross_entropy(output, target, weight=WEIGHT)


def rare(output, target):
    losses = F.binary_cross_entropy_with_logits(output[:, 0], target, reduction="none")
    return (losses * target).sum() / target.sum().clamp(min=1)


def contrastive(output, target):
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


@pytest.mark.parametrize(
    ("loss", "target", "batches"),
    [(weighted, SORTED, 1), (rare, RARE, 1), (contrastive, SORTED, 1), (F.cross_entropy, SORTED, 2),
     (lambda o, t: F.cross_entropy(o, t), SORTED, 2)],
)  # fmt: skip
def test_a_large_batch_is_cut_only_where_the_loss_stays_what_it_is(loss, target, batches):
    model = network()
    task = Task(model=model, loss=loss, train=(X, target), test=(X, target))
    problem = Problem(task, CPU)
    z = problem.training.point()
    expected = pytest.approx(float(loss(model(X), target).detach()), rel=1e-5)
    assert float(value(problem.evaluation, z)) == expected
    assert float(value(problem.training, z)) == expected
    assert problem.metrics(z)["test"]["loss"] == expected
    assert len(problem.training.data.batches) == batches
    if batches == 1:
        with pytest.raises(ValueError, match="cannot be cut into 16 batches"):
            problem.as_given.sharded(16)
        assert fitting(problem) == 0
    else:
        assert problem.as_given.sharded(16).samples == 5000 and fitting(problem) == 32


def test_a_batch_that_is_normalised_by_itself_is_not_cut():
    model = network(norm=True)
    problem = Problem(Task(model=model, loss=F.cross_entropy, train=(X, SORTED)), CPU)
    expected = float(F.cross_entropy(model.train()(X), SORTED).detach())
    assert float(value(problem.training, problem.training.point())) == pytest.approx(expected)


def test_methods_without_a_size_of_mini_batches_take_what_fits_the_data():
    coupled = Problem(Task(model=network(), loss=contrastive, train=(X[:60], SORTED[:60])), CPU)
    for name in ("sgd", "adam", "sam", "swa", "cnognp"):
        found = settled(Config("wine", method=name), coupled)
        assert found.method_options["batch_size"] == 0
    asked = Config("wine", method="sgd", method_options={"batch_size": 7})
    assert settled(asked, coupled) == asked
    assert settled(Config("wine", method="gd"), coupled) == Config("wine", method="gd")
    single = Problem(
        Task(model=network(norm=True), loss=F.cross_entropy, train=(X[:65], SORTED[:65])), CPU
    )
    size = settled(Config("wine", method="sgd"), single).method_options["batch_size"]
    assert 65 % size != 1


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.3))

    def forward(self, output, target):
        return F.cross_entropy(output * self.temperature, target)


def test_the_parameters_of_a_loss_are_measured_where_they_are():
    def accuracy(output, target):
        return (output.argmax(-1) == target).float().mean()

    train = (X[:60], SORTED[2000:2060])
    task = Task(model=network(), loss=Scaled(), train=train, test=train, metrics={"a": accuracy})
    problem = Problem(task, CPU)
    z = 1.5 * problem.training.point()
    found = problem.metrics(z)
    assert found["train"]["loss"] == pytest.approx(float(value(problem.evaluation, z)))
    assert found["test"] == found["train"]
    (kept,) = problem.training.loss_state_dict(z).values()
    assert float(kept) == pytest.approx(1.95)
    assert set(problem.state_dict(z)) == set(task.model.state_dict())


def test_what_a_measurement_would_refuse_is_not_trained_but_for_a_gradient_that_is_meant():
    model = network()
    held = list(model.parameters())
    hidden = Task(
        model=model,
        loss=lambda o, t: F.cross_entropy(o, t) + sum(p.square().sum() for p in held),
        train=(X[:60], SORTED[:60]),
    )
    with pytest.raises(RuntimeError, match="reaches the loss past the vector"):
        Problem(hidden, CPU).check_means()
    parts = [(X[i : i + 25], torch.arange(25 + i % 2)[:25] % 3) for i in (0, 25, 50)]
    with pytest.raises(ValueError, match="weighs them by something else"):
        Problem(Task(model=model, loss=weighted, train=uneven(parts)), CPU).check_means()
    test = Task(model=model, loss=weighted, train=(X[:60], SORTED[:60]), test=uneven(parts))
    with pytest.raises(ValueError, match="test data: the loss of two batches"):
        Problem(test, CPU).check_means()


def uneven(parts):
    return [(x[: 20 - 6 * k], (y[: 20 - 6 * k] + k) % 3) for k, (x, y) in enumerate(parts)]


class Noisy(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, place):
        return X[place] + 0.1 * torch.randn(4), SORTED[100 * place]


def test_random_data_are_trained_anew_and_judged_on_a_frozen_copy():
    task = Task(model=network(), loss=F.cross_entropy, train=DataLoader(Noisy(), batch_size=8))
    problem = Problem(task, CPU, data_seed=0)
    z = problem.training.point()
    assert float(value(problem.evaluation, z)) == float(value(problem.evaluation, z))
    from cnognp import METHODS

    stream = problem.stream(METHODS["gd"](lr=0.1), 0)
    first, second = (float(value(next(stream), z)) for _ in range(2))
    assert first != second
    again = problem.stream(METHODS["gd"](lr=0.1), 0)
    assert float(value(next(again), z)) == first
