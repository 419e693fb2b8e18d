"""The size of mini-batches where none is given: what falls into samples and what does not."""

from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cnognp import METHODS
from cnognp.methods import BATCH
from cnognp.methods.descent import SGD
from cnognp.tasks import Task
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config, RunFolder
from cnognp.training.minibatches import check, fitting, settled
from cnognp.training.session import train

CPU = torch.device("cpu")


def made(seed=0):
    return torch.Generator(device="cpu").manual_seed(seed)


X, Y = torch.randn(33, 5, generator=made()), torch.randint(0, 3, (33,), generator=made(1))
EDGES = torch.eye(33) + 0.3 * torch.rand(33, 33, generator=made(2))


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x, edges):
        return self.layer(edges @ x)


def task(model, inputs, target=Y):
    return Task(model=model, loss=F.cross_entropy, train=(inputs, target))


def normalised(samples):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    return task(model, X[:samples], Y[:samples])


@pytest.mark.parametrize(
    "given, size",
    [
        (task(nn.Linear(5, 3), X), BATCH),
        (task(nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)), X), BATCH),
        (task(Graph(), (X, EDGES)), 0),
        # Smaller than a mini-batch: nothing would fail, and every step would see another graph.
        (task(Graph(), (X[:20], EDGES[:20, :20]), Y[:20]), 0),
        (normalised(32), BATCH),
        (normalised(33), BATCH - 1),
    ],
    ids=["rows", "dropout", "graph", "small graph", "batchnorm", "one left over"],
)
def test_data_that_fall_into_samples_have_mini_batches(given, size):
    assert fitting(Problem(given, CPU)) == size


class Messages(Graph):
    def forward(self, x, ends):
        return self.layer(x.index_add(0, ends[1], x[ends[0]]))


def test_tensors_without_a_row_for_each_sample_are_taken_whole():
    ends = torch.randint(0, 33, (2, 90), generator=made(3))
    loader = DataLoader([0], collate_fn=lambda _: ((X, ends), Y))
    assert fitting(Problem(Task(Messages(), F.cross_entropy, loader), CPU)) == 0


def test_only_what_is_left_open_is_settled():
    problem = Problem(task(Graph(), (X, EDGES)), CPU)
    for options, size in (({}, 0), ({"batch_size": None}, 0), ({"batch_size": 8}, 8)):
        config = Config("own", "cnognp", method_options=options)
        assert settled(config, problem).method_options["batch_size"] == size
    assert settled(Config("own", "sgd"), problem).method_options["batch_size"] == 0
    assert settled(Config("own", "gd"), problem) == Config("own", "gd")


def test_a_swarm_takes_one_step_where_nobody_settles_a_size():
    assert METHODS["cno"]().local is None is METHODS["cno"](batch_size=0).local
    assert METHODS["cno"](momentum=0.9).local == SGD(lr=0.1, momentum=0.9)
    assert METHODS["cno"](batch_size=8).local.size == 8


def test_the_run_says_the_size_that_was_found_and_goes_on_with_it(tmp_path):
    config = Config("wine", members=2, iterations=4, threads=1)
    folder = RunFolder(tmp_path / "run")
    train(config, folder, leave=lambda: True)
    assert yaml.safe_load(folder.config_path.read_text())["method"]["data"]["batch_size"] == BATCH
    assert train(config, folder, resume=True).iteration == 4
    other = replace(config, method_options={"batch_size": 8})
    with pytest.raises(ValueError, match="batch_size 32, not 8"):
        train(other, folder, resume=True)


@pytest.mark.parametrize("task_name", ["wine", "digits"])
def test_a_few_epochs_as_they_come_train_better_than_as_many_published_steps(tmp_path, task_name):
    """Forty steps on the whole data left the digits at 1.57 and Wine at 0.16."""
    ends = []
    for options in ({}, {"batch_size": 0, "cognitive": 0.5, "social": 0.5}):
        config = Config(task_name, members=4, iterations=15, threads=1, method_options=options)
        folder = RunFolder(tmp_path / f"run{len(ends)}")
        ends.append(train(config, folder).meta["best"]["loss"])
    assert ends[0] < 0.5 * ends[1]


NORMED = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
COUPLED = {"loss": lambda output, target: F.cross_entropy(output - output.mean(0), target)}


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("sgd", {"batch_size": 16}, "of 33 samples, batch_size 16 with accumulation 1 leaves one"),
        ("sam", {"batch_size": 11, "accumulation": 6}, "accumulation 6 leaves one alone"),
        ("adam", {"batch_size": 33, "accumulation": 2, "average": "swa"}, "cannot be cut into 2"),
    ],
)
def test_mini_batches_that_cannot_be_had_are_refused_before_there_is_a_folder(
    monkeypatch, tmp_path, method, given, said
):
    options = COUPLED if "average" in given else {"loss": F.cross_entropy}
    made = Task(NORMED, train=[(X, Y)], **options)
    monkeypatch.setattr("cnognp.tasks.problem.task_of", lambda *what: made)
    config = Config("own", method, members=1, iterations=1, method_options=given)
    with pytest.raises(ValueError, match=said):
        train(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_sample_that_batchnorm_takes_alone_may_be_left_alone():
    images = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3))
    made = Task(images, F.cross_entropy, train=[(torch.randn(33, 1, 4, 4, device=CPU), Y)])
    check(METHODS["sgd"](batch_size=16, accumulation=20), Problem(made, CPU))
