"""Gradient descent and stochastic gradient descent on whole populations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Method, kept, norms, require
from cnognp.methods.fitness import Fitness
from cnognp.methods.hyperparameters import Rate, descended, require_not_negative
from landscape.objective import Objective, offered, value_and_grad
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
    r"""Gradient descent on the whole data: z <- z - lr grad f(z).

    Args:
        lr: step length, not negative; a minimum with largest eigenvalue l attracts only below
            2 / l.

    Raises:
        ValueError: if ``lr`` is out of range.
    """

    lr: Rate = 0.1

    def __post_init__(self):
        require_not_negative("lr", self.lr)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        return DescentState(descended(z, self.lr, grad)), Info(z, loss, norms(grad), loss, 1)


@dataclass(frozen=True)
class SGD:
    r"""Stochastic gradient descent with momentum; one iteration is one epoch of mini-batches.

    A step is as ``torch.optim.SGD`` defines it:
    :math:`g \leftarrow \nabla f(z) + \delta z`, :math:`v \leftarrow \mu v + g`, and the step is
    along v, or along :math:`g + \mu v` with Nesterov's look-ahead. With ``decoupled`` decay g is
    the gradient alone, and :math:`z \leftarrow (1 - \eta \delta) z` before the step, which
    velocities never see. On a stream of mini-batches this is stochastic gradient descent.

    Args:
        lr: step length, not negative.
        momentum: factor on the velocity, from 0 to below 1.
        nesterov: look ahead along the velocity; needs momentum.
        weight_decay: added to the gradient, times the weights; not negative.
        decoupled: the decay shrinks the weights by lr times weight_decay instead.

    Raises:
        ValueError: if one is out of range.

    Reference: Loshchilov & Hutter (2019), algorithm 1, for the decoupled decay, scaled by the step
    length.
    """

    lr: Rate = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: Rate = 0.0
    decoupled: bool = False

    def __post_init__(self):
        require_not_negative("lr", self.lr)
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
            if self.decoupled:
                z = z * (1 - self.lr * self.weight_decay)
            else:
                grad = (self.weight_decay * z).add_(grad)
        velocity, along = state.velocity, grad
        if self.momentum:
            velocity = (self.momentum * state.velocity).add_(grad)
            along = (self.momentum * velocity).add_(grad) if self.nesterov else velocity
            velocity = kept(objective, velocity, state.velocity)
        z = kept(objective, descended(z, self.lr, along), state.position)
        return MomentumState(z, velocity), info


@dataclass(frozen=True)
class Epoch:
    """One epoch of mini-batches as one step of another method.

    An objective that has no mini-batches is its own only one.

    Args:
        method: what moves on each mini-batch.
        size: samples in a mini-batch, at least 1.
        evaluate: whether the whole objective is evaluated at the end, so that `Info` can report it.
            A swarm that evaluates its own new points sets it to False.
        parts: pieces of a mini-batch that are evaluated one after another for one step, so that the
            memory is that of a piece; at least 1.
        fitness: one that needs no more than loss and gradient norm. Then, where the end is not
            evaluated, `Info` tells the means over the mini-batches of loss, gradient norm and this
            fitness, each where the members were when they saw it.
        paced: ``paced(method, step, steps)``: what moves on a mini-batch in the place of
            ``method``, by its number in the epoch and by how many there are; ``method`` itself
            where None.

    Raises:
        ValueError: if ``size`` or ``parts`` is not positive.
    """

    method: Method
    size: int
    evaluate: bool = True
    parts: int = 1
    fitness: Fitness | None = None
    paced: Callable[[Method, int, int], Method] | None = None

    def __post_init__(self):
        require(self.size >= 1, "size", "at least 1", self.size)
        require(self.parts >= 1, "accumulation", "at least 1", self.parts)

    def init(self, objective: Objective, z: Tensor) -> EpochState:
        return EpochState(z, self.method.init(objective, z))

    def step(
        self, objective: Objective, state: EpochState, generator: torch.Generator
    ) -> tuple[EpochState, Info]:
        inner = state.inner._replace(position=state.position)
        stream = [objective]
        if (minibatches := offered(objective, "minibatches")) is not None:
            cut = {"parts": self.parts} if self.parts > 1 else {}
            stream = minibatches(self.size, derive(generator, "epoch"), epochs=1, **cut)
        costs, seen = [], []
        steps = 0 if self.paced is None else steps_of(objective, self.size)
        for k, batch in enumerate(stream):
            method = self.method if self.paced is None else self.paced(self.method, k, steps)
            inner, info = method.step(batch, inner, derive(generator, "step", k))
            costs.append(info.evaluations)
            if self.fitness is not None:
                rank = self.fitness.of_norm(info.loss, info.gradient_norm)  # type: ignore[attr-defined]
                seen.append((info.loss, info.gradient_norm, rank))
        z, cost = inner.position, sum(costs) / len(costs)
        if not self.evaluate:
            told = Info(None, None, None, None, cost)
            if seen:
                loss, norm, rank = map(_mean, zip(*seen, strict=True))
                told = Info(None, loss, norm, rank, cost)
            return EpochState(z, inner), told
        loss, grad = value_and_grad(objective, z)
        return EpochState(z, inner), Info(z, loss, norms(grad), loss, cost)


def steps_of(objective: Objective, size: int) -> int:
    """How many mini-batches of that size an epoch of the objective has; 1 where it has none.

    Raises:
        ValueError: if it has some and does not say how many.
    """
    if offered(objective, "minibatches") is None:
        return 1
    if (own := offered(objective, "steps")) is None:
        raise ValueError(
            f"{type(objective).__name__} has mini-batches and does not say how many, which a "
            "schedule from step to step needs: give it a method steps(size)"
        )
    return own(size)


def _mean(numbers: Sequence[Tensor]) -> Tensor:
    """The mean (n,) of numbers of members, the same bits for each however many come together.

    A sum along an axis of a matrix has an order that depends on the shape of the matrix.
    """
    total = numbers[0]
    for more in numbers[1:]:
        total = total + more
    return total / len(numbers)
