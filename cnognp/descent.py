"""Gradient descent and stochastic gradient descent on whole populations."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.hyperparameters import Rate, require_not_negative, require_positive
from cnognp.method import Info, Method, norms, require
from landscape.objective import Objective, value_and_grad
from landscape.randomness import derive


class DescentState(NamedTuple):
    """Where the members are."""

    position: Tensor


class MomentumState(NamedTuple):
    """Where the members are, and their velocities."""

    position: Tensor
    velocity: Tensor


class EpochState(NamedTuple):
    """Where the members are, and the state of the method that runs inside."""

    position: Tensor
    inner: Any


@dataclass(frozen=True)
class GradientDescent:
    r"""Gradient descent, :math:`z \leftarrow z - \eta \nabla f(z)`.

    Args:
        lr: step length :math:`\eta`, positive; one number, or one per coordinate (p,).

    Raises:
        ValueError: if ``lr`` is out of range.
    """

    lr: Rate

    def __post_init__(self):
        require_positive("lr", self.lr)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        return DescentState(z - self.lr * grad), Info(z, loss, norms(grad), loss, 1)


@dataclass(frozen=True)
class SGD:
    r"""Gradient descent with momentum, as ``torch.optim.SGD`` defines it.

    :math:`g \leftarrow \nabla f(z) + \delta z`, :math:`v \leftarrow \mu v + g`, and the step is
    along v, or along :math:`g + \mu v` with Nesterov's look-ahead. On a stream of mini-batches this
    is stochastic gradient descent.

    Args:
        lr: step length, positive; one number, or one per coordinate (p,).
        momentum: :math:`\mu`, from 0 to below 1.
        nesterov: look ahead along the velocity; needs momentum.
        weight_decay: :math:`\delta`, coupled decay, not negative; a number or (p,).

    Raises:
        ValueError: if one is out of range.
    """

    lr: Rate
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: Rate = 0.0

    def __post_init__(self):
        require_positive("lr", self.lr)
        require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        require_not_negative("weight_decay", self.weight_decay)
        require(not self.nesterov or self.momentum > 0, "momentum", "positive with nesterov", 0)

    def init(self, objective: Objective, z: Tensor) -> MomentumState:
        return MomentumState(z, torch.zeros_like(z))

    def step(
        self, objective: Objective, state: MomentumState, generator: torch.Generator
    ) -> tuple[MomentumState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        info = Info(z, loss, norms(grad), loss, 1)
        if isinstance(self.weight_decay, Tensor) or self.weight_decay:
            grad = grad + self.weight_decay * z
        velocity = self.momentum * state.velocity + grad if self.momentum else grad
        along = grad + self.momentum * velocity if self.nesterov else velocity
        return MomentumState(z - self.lr * along, velocity), info


@dataclass(frozen=True)
class Epoch:
    """One epoch of mini-batches as one step of another method.

    An objective that has no mini-batches is its own only one.

    Args:
        method: what moves on each mini-batch.
        size: samples in a mini-batch, at least 1.
        evaluate: whether the whole objective is evaluated at the end, so that `Info` can report it;
            this is not counted as an evaluation that the method needs. A swarm that evaluates its
            own new points sets it to False.

    Raises:
        ValueError: if ``size`` is not positive.
    """

    method: Method
    size: int
    evaluate: bool = True

    def __post_init__(self):
        require(self.size >= 1, "size", "at least 1", self.size)

    def init(self, objective: Objective, z: Tensor) -> EpochState:
        return EpochState(z, self.method.init(objective, z))

    def step(
        self, objective: Objective, state: EpochState, generator: torch.Generator
    ) -> tuple[EpochState, Info]:
        inner = state.inner._replace(position=state.position)
        stream = [objective]
        if hasattr(objective, "minibatches"):
            stream = objective.minibatches(self.size, derive(generator, "epoch"), epochs=1)
        costs = []
        for k, batch in enumerate(stream):
            inner, info = self.method.step(batch, inner, derive(generator, "step", k))
            costs.append(info.evaluations)
        z, cost = inner.position, sum(costs) / len(costs)
        if not self.evaluate:
            return EpochState(z, inner), Info(None, None, None, None, cost)
        loss, grad = value_and_grad(objective, z)
        return EpochState(z, inner), Info(z, loss, norms(grad), loss, cost)
