"""Averages of weights against torch's own, BatchNorm statistics included."""

import copy
from itertools import islice

import pytest
import torch
from torch.nn.utils import vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cnognp import METHODS
from cnognp.run import run
from cnognp.tasks import load
from cnognp.tasks.problem import Problem

START, EPOCHS, SIZE, DECAY = 1, 4, 256, 0.9


def ends(problem, method):
    """Where one member is after each epoch."""
    stream = islice(problem.stream(method, 0), EPOCHS)
    generator = torch.Generator(device="cpu").manual_seed(0)
    start = problem.training.point()[None]
    return [state.position[0] for state, _ in run(method, stream, start, generator)]


@pytest.mark.parametrize("average", ["swa", "ema"])
def test_an_average_and_its_statistics_are_those_of_torch(average):
    problem = Problem(load("digits", network="conv"), torch.device("cpu"))
    keys = {"lr": 0.05, "momentum": 0.9, "batch_size": SIZE if average == "swa" else 2000}
    kept = {"average_start": START, "average_decay": DECAY}
    found = ends(problem, METHODS["sgd"](average=average, **kept, **keys))[-1]
    # With all samples in a mini-batch a step is an epoch.
    model = copy.deepcopy(problem.task.model)
    how = get_ema_multi_avg_fn(DECAY) if average == "ema" else None
    averaged = AveragedModel(model, multi_avg_fn=how)
    for z in ends(problem, METHODS["sgd"](**keys))[START:]:
        vector_to_parameters(z, model.parameters())
        averaged.update_parameters(model)
    inputs, target = problem.task.train
    for parameters in averaged.module.parameters():
        parameters.requires_grad_(False)
    update_bn([(inputs, target)], averaged)
    truth = averaged.module.state_dict()
    own = problem.state_dict(found)
    for name, tensor in own.items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, truth[name], rtol=1e-4, atol=1e-5)
    averaged.eval()
    loss = problem.task.loss(averaged(inputs), target)
    assert problem.metrics(found)["train"]["loss"] == pytest.approx(float(loss), rel=1e-5)
    # The statistics of the last point, or of the start, are others.
    name = next(name for name in own if name.endswith("running_var"))
    plain = problem.state_dict(problem.training.point())[name]
    assert (own[name] - plain).abs().max() > 1e-3
