"""Trainings that may take so many gradients of mini-batches and no more."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Method, traits_of
from cnognp.methods.composition import unevaluated
from cnognp.run import run
from cnognp.tasks.problem import Problem
from cnognp.tasks.task import Task, initial_population
from landscape.networks.batches import mapped
from landscape.randomness import derived_seed

_FEW = 4  # samples on which a method is asked what a round of it costs


class Moment(NamedTuple):
    """Where a training stands after a round.

    ``passes`` counts the passes over the training data that all members have taken together, one
    for the gradients of all mini-batches; ``points`` (members, p) is what the method offers: the
    best points of its members where it remembers any, else where they are.
    """

    passes: float
    points: Tensor


def moments(
    problem: Problem, method: Method, members: int, passes: int, seed: int, first: int = 0
) -> Iterator[Moment]:
    """The training after every round that the budget pays for.

    A method whose members learn from each other has ``members``, who share the budget; any other
    has one, which has it alone. What a swarm spends on judging its members is part of the budget.

    Args:
        problem: what is trained.
        method: how; a round is an epoch of mini-batches.
        members: of a method that couples them.
        passes: over the training data, all members together.
        seed: of the starts and of what the method draws; of this alone where ``first`` is not 0.
        first: the number of the first start; 0 is the task's model. Starts of a number are the
            same whatever the seed.

    Raises:
        ValueError: if the budget does not pay for one round.
    """
    method = unevaluated(method)
    count = members if traits_of(method).couples else 1
    rounds = affordable(problem.task, method, count, passes)
    z = initial_population(
        problem.task, problem.training.layout, count, 0 if first else seed, problem.device,
        problem.training.point_dtype, first,
    )  # fmt: skip
    used = 0.0
    for state, info in islice(_steps(problem, method, z, seed), rounds):
        used += count * info.evaluations
        yield Moment(used, state.best if hasattr(state, "best_fitness") else state.position)


def affordable(task: Task, method: Method, members: int, passes: int) -> int:
    """How many rounds the budget pays for; the first may cost more than the others.

    Raises:
        ValueError: if it pays for none.
    """
    problem = Problem(
        replace(
            task, train=mapped(task.train, lambda part: part[:_FEW]), validation=None, test=None
        ),
        torch.device("cpu"), check=False,
    )  # fmt: skip
    z = problem.training.point().expand(members, -1)
    first, later = (
        members * info.evaluations for _, info in islice(_steps(problem, method, z, 0), 2)
    )
    if first > passes:
        raise ValueError(
            f"a round of {members} members takes {first:g} passes over the training data; the "
            f"budget of {passes} does not pay for it"
        )
    # A quotient of sums of costs that is a whole number is not to be rounded down.
    return 1 + int((passes - first) / later + 1e-9)


def _steps(problem: Problem, method: Method, z: Tensor, seed: int) -> Iterator[tuple[Any, Any]]:
    """State and info after every step."""
    seed = derived_seed(seed, "training")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return run(method, problem.stream(method, seed), z, generator)
