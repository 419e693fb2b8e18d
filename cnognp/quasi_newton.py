"""Limited-memory BFGS on whole populations."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from cnognp.descent import DescentState
from cnognp.method import Info, norms, require
from landscape.objective import Objective, value_and_grad

_CURVATURE = 1e-10


@dataclass(frozen=True)
class LBFGS:
    r"""A few iterations of limited-memory BFGS with a fixed step, from a fresh memory.

    The two-loop recursion with initial scaling :math:`s^\top y / y^\top y` (Nocedal & Wright 2006,
    algorithm 7.4), every member with its own memory. As in ``torch.optim.LBFGS`` without a line
    search, the first step is :math:`\min(1, 1 / \|g\|_1)` times ``lr`` along -g, and pairs with
    :math:`y^\top s \le 10^{-10}` are skipped.

    Args:
        lr: step length, positive.
        iterations: iterations in one step of this method, at least 1.
        history: pairs that are remembered, at least 1.

    Raises:
        ValueError: if one is out of range.
    """

    lr: float = 0.1
    iterations: int = 5
    history: int = 10

    def __post_init__(self):
        require(self.lr > 0 and isfinite(self.lr), "lr", "positive and finite", self.lr)
        require(self.iterations >= 1, "iterations", "at least 1", self.iterations)
        require(self.history >= 1, "history", "at least 1", self.history)

    def init(self, objective: Objective, z: Tensor) -> DescentState:
        return DescentState(z)

    def step(
        self, objective: Objective, state: DescentState, generator: torch.Generator
    ) -> tuple[DescentState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        info = Info(z, loss, norms(grad), loss, self.iterations)
        pairs: list[tuple[Tensor, Tensor]] = []
        for k in range(self.iterations):
            direction = _two_loop(grad, pairs)
            length = torch.full_like(loss, self.lr)
            if k == 0:
                length = self.lr * (1 / grad.abs().sum(-1)).clamp_max(1.0)
            move = length.unsqueeze(-1) * direction
            z = z + move
            if k + 1 < self.iterations:
                _, new = value_and_grad(objective, z)
                pairs = [*pairs, (move, new - grad)][-self.history :]
                grad = new
        return DescentState(z), info


def _two_loop(grad: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the inverse Hessian estimate times the gradient, for every member.

    A pair without positive curvature has weight 0 for that member alone.
    """
    direction = -grad
    if not pairs:
        return direction
    scaling = torch.ones_like(grad[..., :1])
    weights = []
    for s, y in pairs:
        product = (s * y).sum(-1, keepdim=True)
        good = product > _CURVATURE
        weights.append(torch.where(good, 1 / product, torch.zeros_like(product)))
        scaling = torch.where(good, product / (y * y).sum(-1, keepdim=True), scaling)
    steps = []
    for (s, y), weight in zip(reversed(pairs), reversed(weights), strict=True):
        step = weight * (s * direction).sum(-1, keepdim=True)
        direction = direction - step * y
        steps.append(step)
    direction = scaling * direction
    for (s, y), weight, step in zip(pairs, weights, reversed(steps), strict=True):
        direction = direction + (step - weight * (y * direction).sum(-1, keepdim=True)) * s
    return direction
