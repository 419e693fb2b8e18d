"""How many samples a mini-batch has where nobody has said so."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor

from cnognp.config import Config
from cnognp.methods import BATCH, METHODS
from cnognp.problem import Problem
from landscape.batches import Batch, LoaderBatches, count, tensors_of
from landscape.objective import value
from landscape.risk import EmpiricalRisk

_KEY = "batch_size"
# Of the loss: sums in another order differ by less.
_ROUNDING = 1e-3


def settled(config: Config, problem: Problem) -> Config:
    """The configuration with the size of mini-batches that fits the data, where it has none.

    It is `BATCH`, or that of a loader which is too large to keep, or 0, steps on the whole data,
    where these do not fall into samples.
    """
    return with_size(config, fitting(problem)) if left_open(config) else config


def left_open(config: Config) -> bool:
    """Whether the method takes a size of mini-batches that may be None, and has no other."""
    known = inspect.signature(METHODS[config.method]).parameters
    return _KEY in known and config.method_options.get(_KEY, known[_KEY].default) is None


def with_size(config: Config, size: int | None) -> Config:
    """The configuration with mini-batches of so many samples."""
    return replace(config, method_options={**config.method_options, _KEY: size})


def size_in(config: Config) -> int | None:
    """The samples in a mini-batch that the configuration asks for."""
    return config.method_options.get(_KEY)


def fitting(problem: Problem) -> int:
    """The samples that a mini-batch of the problem's training data should have; 0 for all of them.

    Data fall into samples if every tensor has a row for each, the batches can be joined, and the
    loss of the first batch stays what it is when its rows change places: a graph's matrix of edges
    passes the first two tests alone.
    """
    risk = problem.training
    if isinstance(risk.batches, LoaderBatches):
        return risk.batches.loader.batch_size or 0
    if not all(_has_rows(batch) for batch in risk.batches):
        return 0
    # Model and loss are a user's: one that takes no shuffled rows is trained on the whole data.
    try:
        next(risk.minibatches(BATCH, _source()))
        if not _may_be_shuffled(problem, next(iter(risk.batches))):
            return 0
    except Exception:
        return 0
    if not problem.normalised:
        return BATCH
    # BatchNorm cannot normalise the single sample that would be left for the last mini-batch.
    return next((size for size in range(BATCH, 1, -1) if risk.samples % size != 1), 0)


def _has_rows(batch: Batch) -> bool:
    samples = count(batch)
    tensors: list[Tensor] = [*tensors_of(batch[0]), *tensors_of(batch[1])]
    return all(tensor.ndim > 0 and len(tensor) == samples for tensor in tensors)


def _may_be_shuffled(problem: Problem, batch: Batch) -> bool:
    given = problem.as_given
    z = given.point()
    risk = EmpiricalRisk(given.network(z), [batch], problem.task.loss)
    if risk.stochastic_modules():
        return True
    loss = float(value(risk, z))
    shuffled = float(value(next(risk.minibatches(risk.samples, _source())), z))
    return abs(loss - shuffled) <= _ROUNDING * abs(loss)


def _source() -> torch.Generator:
    return torch.Generator(device="cpu").manual_seed(0)
