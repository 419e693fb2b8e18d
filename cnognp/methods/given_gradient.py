"""Base methods that are given another gradient than the objective's own.

SAM, gradient centralisation and their like differ in one thing: which vector the step is made of.
They present their base method an objective with the values of the given one and that vector for a
gradient. The base method does the step, so that momentum, Adam's means or weight decay work as they
always do.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Method, norms
from landscape.objective import Objective, Term, batched_terms, offered, value_and_grad

Gradient = Callable[[Objective, Tensor, Tensor], Tensor]


class BaseState(NamedTuple):
    """Where the members are, and the state of the base method."""

    position: Tensor
    base: Any


class Redirected:
    """An objective with the values of another one and a gradient of its own making.

    It is made for one step and remembers the norm of the true gradient where it is asked first,
    which is where the members of the base method are.

    Args:
        objective: what has the values.
        gradient: from the objective, the points and the gradients there to other gradients.
    """

    def __init__(self, objective: Objective, gradient: Gradient):
        self.objective = objective
        self.gradient = gradient
        self.dim = objective.dim
        self.layout = offered(objective, "layout")
        self.gradient_norm: Tensor | None = None

    def terms(self) -> Iterator[Term]:
        return self.objective.terms()

    def batched_terms(self) -> Iterator[Term]:
        return batched_terms(self.objective)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loss, grad = value_and_grad(self.objective, z)
        if self.gradient_norm is None:
            self.gradient_norm = norms(grad)
        return loss, self.gradient(self.objective, z, grad)

    @property
    def minibatches(self) -> Callable[..., Iterator["Redirected"]]:
        """The mini-batches of the objective, each redirected; there only where it has some."""
        stream = self.objective.minibatches  # type: ignore[attr-defined]
        return lambda *how, **more: (Redirected(b, self.gradient) for b in stream(*how, **more))

    @property
    def steps(self) -> Callable[[int], int]:
        """How many of them there are in an epoch; there only where the objective says it."""
        return self.objective.steps  # type: ignore[attr-defined]


def redirected_step(
    base: Method,
    gradient: Gradient,
    cost: int,
    objective: Objective,
    state: BaseState,
    generator: torch.Generator,
) -> tuple[BaseState, Info]:
    """A step of ``base`` along other gradients.

    `Info` still tells loss and gradient norm of the objective itself, where the members are.

    Args:
        base: does the step; it evaluates the objective first where its members are.
        gradient: as in `Redirected`.
        cost: evaluations of the objective that one such gradient costs.
        objective: the step's own.
        state: before the step.
        generator: handed on to ``base``.
    """
    presented = Redirected(objective, gradient)
    inner, info = base.step(presented, state.base._replace(position=state.position), generator)
    info = info._replace(gradient_norm=presented.gradient_norm, evaluations=cost * info.evaluations)
    return BaseState(inner.position, inner), info
