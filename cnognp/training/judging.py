"""When the points of a training by mini-batches are judged on the whole data, and at what price."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cnognp.homes import measured
from cnognp.method import Info, Method
from cnognp.methods.averaging import SWA
from cnognp.methods.descent import Epoch
from cnognp.methods.schedule import Scheduled
from cnognp.tasks.problem import Problem
from cnognp.training.config import Config
from landscape.objective import Objective

SMALL = 1 << 24
"""Parameters times samples up to which every round is judged, with its gradient."""
EVERY = 10
"""Rounds between judgements of what is larger, where the configuration does not say."""


@dataclass(frozen=True)
class Judging:
    """Which rounds are judged, and whether the gradient's norm is wanted there.

    The first round and the last are always judged.

    Args:
        every: rounds between judgements.
        last: the last round.
        gradient: whether the norm of the gradient is told, which costs twice as much again.
        device: where points are judged, wherever they live.
        fitness: what points are judged by where the method ranks by something else; only the best
            of a round is judged then.
    """

    every: int
    last: int
    gradient: bool
    device: torch.device
    fitness: Any = None

    def due(self, iteration: int) -> bool:
        """Whether that round is judged."""
        return due(iteration, self.every, self.last)

    def judged(self, objective: Objective, state: Any, info: Info) -> Info:
        """The info with the loss on the whole objective where the members now are."""
        z = state.position
        loss, norm = measured(objective, z, self.device, self.gradient)
        return Info(z, loss, norm, loss, info.evaluations)

    def measured(self, objective: Objective, z: Tensor) -> Tensor:
        """The fitness (n,) at z (n, p) on the whole objective."""
        return self.fitness.of_norm(*measured(objective, z, self.device, self.gradient))

    def elected(
        self, objective: Objective, method: Any, state: Any, info: Info
    ) -> tuple[Tensor, Tensor]:
        """Where members (n, p) were as their epochs ended, and fitness (n,) on the whole objective.

        That of all but the one whose epoch was the best is infinite.
        """
        member, z = method.elected(state, info)
        fitness = torch.full_like(info.fitness, torch.inf)  # type: ignore[arg-type]
        fitness[member] = self.measured(objective, z)[0]
        return state.local.position, fitness


def judging(config: Config, problem: Problem, method: Method) -> tuple[Method, Judging | None]:
    """The method, and when it is judged; None where it tells what it finds in every round.

    A method that judges the end of every epoch only to tell it is given back without that, and is
    judged from outside. So is the best member of a round where a swarm ranks by epochs; the
    published one is believed as it is. A method whose moves need the judgement, as those of other
    swarms do, and one that takes steps on the whole data, judges by itself.
    """
    quiet, small, every = _quiet(method), is_small(problem), interval(config, problem)
    if ranked_by_epochs(method):
        fitness = method.fitness  # type: ignore[attr-defined]
        return method, Judging(
            every, config.iterations, fitness.needs_gradient, problem.device, fitness
        )
    if quiet == method or (small and every == 1):
        return method, None
    return quiet, Judging(every, config.iterations, small, problem.device)


def interval(config: Config, problem: Problem) -> int:
    """Rounds between judgements on the whole data."""
    return config.judge_every or (1 if is_small(problem) else EVERY)


def due(iteration: int, every: int, last: int) -> bool:
    """Whether that round is judged: the first, the last and every so many."""
    return iteration in (1, last) or iteration % every == 0


def is_small(problem: Problem) -> bool:
    """Whether a pass over the training data is done at once."""
    return problem.training.dim * problem.training.samples <= SMALL


def ranked_by_epochs(method: Any) -> bool:
    """Whether what the method ranks by belongs to epochs, whose points are then judged here."""
    return getattr(method, "fitness_from", "") == "epoch" and not method.published


def _quiet(method: Any) -> Any:
    """The method without what it evaluates only to be told."""
    if isinstance(method, Scheduled):
        return replace(method, method=_quiet(method.method))
    if isinstance(method, Epoch) or (isinstance(method, SWA) and _of_epochs(method.base)):
        return replace(method, evaluate=False)
    return method


def _of_epochs(method: Any) -> bool:
    """Whether a round of the method is an epoch that is not judged."""
    if isinstance(method, Scheduled):
        return _of_epochs(method.method)
    return isinstance(method, Epoch) and not method.evaluate
