"""The running average of where a method has been."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Method, norms, parts_of, require
from landscape.objective import Objective, value_and_grad


class AverageState(NamedTuple):
    """The averages, the state of the method that moves, and how often it was averaged.

    ``position`` is the running average once averaging has begun and where the base method is until
    then. ``averaged`` and ``round`` count; they live on the CPU, so that no step waits for an
    accelerator.
    """

    position: Tensor
    base: Any
    averaged: Tensor
    round: Tensor


@dataclass(frozen=True)
class SWA:
    r"""Stochastic weight averaging: the base method moves, its running average is reported.

    After round ``start`` and every ``every`` rounds from then on
    :math:`\bar z \leftarrow \bar z + (z - \bar z) / (n + 1)`, n being how many points the average
    has already. The average never feeds back. BatchNorm statistics are a function of the point, so
    an objective that re-estimates them does so for the average.

    A round is a step of ``base``: an epoch where that is an `Epoch`. Since the average is what
    `Info` is about once it has begun, the objective is evaluated there; let an `Epoch` have
    ``evaluate=False``. A swarm cannot have it as its local search, for it would move the average
    and not the base.

    Args:
        base: any method that moves.
        start: iterations before averaging begins, at least 0.
        every: iterations between two points that are averaged, at least 1.
        evaluate: whether the average is evaluated, so that `Info` can be about it; else it is that
            of the base method.

    Raises:
        ValueError: if one is out of range.

    Reference: Izmailov, Podoprikhin, Garipov, Vetrov & Wilson (2018), algorithm 1.
    """

    base: Method
    start: int = 0
    every: int = 1
    evaluate: bool = True

    def __post_init__(self):
        require(self.start >= 0, "start", "at least 0", self.start)
        require(self.every >= 1, "every", "at least 1", self.every)

    def init(self, objective: Objective, z: Tensor) -> AverageState:
        zero = torch.zeros((), dtype=torch.int64, device="cpu")
        return AverageState(z, self.base.init(objective, z), zero, zero)

    def step(
        self, objective: Objective, state: AverageState, generator: torch.Generator
    ) -> tuple[AverageState, Info]:
        averaged, round = int(state.averaged), int(state.round)
        inner = state.base if averaged else state.base._replace(position=state.position)
        inner, info = self.base.step(objective, inner, generator)
        position = state.position if averaged else inner.position
        if round >= self.start and (round - self.start) % self.every == 0:
            position = position + (inner.position - position) / self.span(averaged)
            averaged += 1
        new = AverageState(
            position, inner, torch.full_like(state.averaged, averaged), state.round + 1
        )
        if self.evaluate and (averaged or info.position is None):
            loss, grad = value_and_grad(objective, position)
            info = Info(position, loss, norms(grad), loss, info.evaluations)
        return new, info

    def span(self, averaged: int) -> float:
        """What the distance to a new point is divided by, after so many points in the average."""
        return float(averaged + 1)


@dataclass(frozen=True)
class EMA(SWA):
    r"""The exponential moving average of the points of a base method, which is reported.

    After round ``start`` it begins where the base is; every ``every`` rounds from then on
    :math:`\bar z \leftarrow d \bar z + (1 - d) z`, as
    ``torch.optim.swa_utils.get_ema_multi_avg_fn(d)`` has it. The average never feeds back. Inside
    an `Epoch` a round is the step on a mini-batch.

    Args:
        decay: d, the share that the average keeps, from 0 to below 1.

    Raises:
        ValueError: if one is out of range.

    Reference: Polyak & Juditsky (1992), and Tarvainen & Valpola (2017), section 2.
    """

    decay: float = 0.999

    def __post_init__(self):
        super().__post_init__()
        require(0 <= self.decay < 1, "decay", "from 0 to below 1", self.decay)

    def span(self, averaged: int) -> float:
        return 1 / (1 - self.decay) if averaged else 1.0


def unevaluated(method: Method) -> Method:
    """The method, where no part of it evaluates the objective only to tell of it."""
    changes: dict[str, Any] = {name: unevaluated(part) for name, part in parts_of(method)}
    if hasattr(method, "evaluate"):
        changes["evaluate"] = False
    return replace(method, **changes) if changes else method  # type: ignore[type-var]
