"""How many samples a mini-batch has where nobody has said so."""

import inspect
from dataclasses import replace

from cnognp.methods import BATCH, METHODS
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config

_KEY = "batch_size"


def settled(config: Config, problem: Problem) -> Config:
    """The configuration with the size of mini-batches that fits the data, where it has none.

    It is `BATCH`, or that of a loader which is too large to keep, or 0, steps on the whole data,
    where these do not fall into samples.
    """
    return with_size(config, fitting(problem)) if left_open(config) else config


def left_open(config: Config) -> bool:
    """Whether the method takes a size of mini-batches, and nobody has said which."""
    known = inspect.signature(METHODS[config.method]).parameters
    default = known[_KEY].default if _KEY in known else 0
    return default != 0 and config.method_options.get(_KEY) is None


def with_size(config: Config, size: int | None) -> Config:
    """The configuration with mini-batches of so many samples."""
    return replace(config, method_options={**config.method_options, _KEY: size})


def size_in(config: Config) -> int | None:
    """The samples in a mini-batch that the configuration asks for."""
    return config.method_options.get(_KEY)


def fitting(problem: Problem) -> int:
    """The samples that a mini-batch of the problem's training data should have; 0 for all of them.

    Data fall into samples if every tensor has a row for each, the batches can be joined, and the
    loss of a batch is the mean over its samples.
    """
    risk = problem.training
    if not risk.data.resident:
        return risk.data.batch_size or 0
    if risk.gate.coupled(risk):
        return 0
    try:
        risk.data.joined()
    except ValueError:
        return 0
    if not problem.normalised:
        return BATCH
    # BatchNorm cannot normalise the single sample that would be left for the last mini-batch.
    return next((size for size in range(BATCH, 1, -1) if risk.samples % size != 1), 0)
