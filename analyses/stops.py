"""Trainings of two methods from one start, and where they are stopped."""

import time
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnognp.method import Method
from cnognp.run import run
from cnognp.tasks.problem import Problem
from landscape.randomness import derived_seed

SPLITS = ("train", "validation", "test")
EQUAL = "equal"
STOPS = (*SPLITS, EQUAL)
_TINY = 1e-30


class Trained(NamedTuple):
    """Every round of a training, the start first.

    ``points`` (rounds + 1, p), ``loss`` (rounds + 1, splits) there, and the passes over the
    training data and the seconds that it took, judging not counted.
    """

    points: Tensor
    loss: np.ndarray
    evaluations: float
    seconds: float


def trained(problem: Problem, method: Method, start: Tensor, rounds: int, seed: int) -> Trained:
    """A training from a start, judged on all splits after every round.

    Args:
        problem: what is trained.
        method: how.
        start: (p,).
        rounds: of the method.
        seed: of the order of mini-batches.
    """
    seed = derived_seed(seed, "training")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    steps = run(method, problem.stream(method, seed), start[None], generator)
    points, losses = [start], [_losses(problem, start)]
    evaluations = seconds = 0.0
    began = time.perf_counter()
    for state, info in islice(steps, rounds):
        seconds += time.perf_counter() - began
        evaluations += info.evaluations
        points.append(state.position[0].clone())
        losses.append(_losses(problem, points[-1]))
        began = time.perf_counter()
    return Trained(torch.stack(points), np.array(losses), evaluations, seconds)


def stopped(losses: list[np.ndarray]) -> np.ndarray:
    """The round (trainings, stops) at which each training is stopped.

    At the lowest loss of a split, one after the other; and at equal training loss: the level is the
    highest of the trainings' lowest losses, and each is stopped at the first round whose loss is
    nearest to it, as a factor. Losses that are no number are never chosen.

    Args:
        losses: (rounds + 1, splits) of each training, training loss first.

    >>> steep = np.array([[1.0, 1.0], [0.1, 0.5], [0.01, 0.7]])
    >>> slow = np.array([[1.0, 1.0], [0.5, 0.6], [0.2, 0.5]])
    >>> stopped([steep, slow]).tolist()
    [[2, 1, 1], [2, 2, 2]]
    """
    known = [np.where(np.isfinite(each), each, np.inf) for each in losses]
    lowest = np.array([each.argmin(0) for each in known])
    level = max(each[:, 0].min() for each in known)
    gaps = [np.abs(np.log(np.maximum(each[:, 0], _TINY) / max(level, _TINY))) for each in known]
    return np.column_stack([lowest, [gap.argmin() for gap in gaps]])


def _losses(problem: Problem, z: Tensor) -> list[float]:
    frozen = problem.at(z)
    return [problem.measured(z, frozen, split, ("loss",))["loss"] for split in SPLITS]
