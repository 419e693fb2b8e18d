"""How a population trained."""

from dataclasses import dataclass

import numpy as np

from landscape.results.record import Result, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class History(Result):
    """How a population trained: one row for each recorded iteration.

    Attributes:
        iteration: counted from the start of the run.
        evaluations: of the objective or its gradient, by all members up to then.
        loss: of each member.
        gradient_norm: Euclidean, of each member.
        fitness: what the method compares members by.
        best_fitness: the lowest fitness so far.
        diversity: how far the members are spread.
        method: its name.
        task: its name.
        status: how the run ended.
    """

    iteration: np.ndarray = axes("iteration")
    evaluations: np.ndarray = axes("iteration")
    loss: np.ndarray = axes("iteration", "member")
    gradient_norm: np.ndarray = axes("iteration", "member")
    fitness: np.ndarray = axes("iteration", "member")
    best_fitness: np.ndarray = axes("iteration")
    diversity: np.ndarray = axes("iteration")
    method: str
    task: str
    status: str
