"""Limited-memory BFGS on whole populations."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Traits, norms, require
from cnognp.methods.descent import DescentState
from cnognp.methods.hyperparameters import require_not_negative
from cnognp.methods.line_search import PHI, Rules, cautious, descending, displaced, search_ray
from landscape.objective import Objective, value, value_and_grad

_CURVATURE = 1e-10


@dataclass(frozen=True)
class LBFGS:
    r"""A few iterations of limited-memory BFGS with a fixed step, from a fresh memory.

    The two-loop recursion with initial scaling :math:`s^\top y / y^\top y` (Nocedal & Wright 2006,
    algorithm 7.4), every member with its own memory. As in ``torch.optim.LBFGS`` without a line
    search, the first step is :math:`\min(1, 1 / \|g\|_1)` times ``lr`` along -g, and pairs with
    :math:`y^\top s \le 10^{-10}` are skipped.

    Args:
        lr: step length, not negative.
        iterations: iterations in one step of this method, at least 1.
        history: pairs that are remembered, at least 1.

    Raises:
        ValueError: if one is out of range.
    """

    lr: float = 0.1
    iterations: int = 5
    history: int = 10
    traits: ClassVar[Traits] = Traits("curvature")

    def __post_init__(self):
        require_not_negative("lr", self.lr)
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


class MemoryState(NamedTuple):
    """Where the members are and were, the gradients there, and their last moves and changes.

    ``moves`` and ``changes`` are (N, history, p), the newest last; a pair of zeros is none.
    """

    position: Tensor
    previous: Tensor
    grad: Tensor
    moves: Tensor
    changes: Tensor


@dataclass(frozen=True)
class LBFGSGoldenSection:
    r"""Limited-memory BFGS whose step length is found by golden sections.

    One step of this method is one iteration: a gradient, the two-loop recursion, and a line search
    by values alone. The search tries 1 first, or :math:`\min(1, 1 / \|g\|_1)` with an empty memory;
    expands or contracts to a bracket; narrows that until its length is ``tolerance`` times its
    upper end. The loss never rises. Pairs with :math:`y^\top s \le 10^{-10} \|y\| \|s\|` are
    skipped. Where no trial is better, the member stays and forgets its pairs.

    ``published`` does as the published code: the first trial is 0.2, expansion goes on to 0.8, 1.6,
    3.2, ..., 6 trials in all, a bracket of :math:`10^{-4} / \|p\|` is short enough;
    :math:`y^\top s + 10^{-6}` is divided by; a pair with a cosine below :math:`10^{-4}` empties the
    memory. Where the trials run out while all were worse, the last of them is taken: the loss
    rises.

    Args:
        history: pairs that are remembered, at least 1.
        trials: evaluations in a line search at most, at least 1; not used with ``published``.
        tolerance: of the step length, relative, positive; not used with ``published``.
        published: the line search as published, of 6 trials, which may raise the loss; trials and
            tolerance are then not used.

    Raises:
        ValueError: if one is out of range.

    Reference: Nocedal & Wright (2006), algorithm 7.4; the published code of Yu & Morozov,
    arXiv 2602.21276.
    """

    history: int = 10
    trials: int = 10
    tolerance: float = 0.1
    published: bool = False
    traits: ClassVar[Traits] = Traits("curvature")

    def __post_init__(self):
        require(self.history >= 1, "history", "at least 1", self.history)
        require(self.trials >= 1, "trials", "at least 1", self.trials)
        tolerates = self.tolerance > 0 and isfinite(self.tolerance)
        require(tolerates, "tolerance", "positive and finite", self.tolerance)

    def init(self, objective: Objective, z: Tensor) -> MemoryState:
        memory = z.new_zeros((len(z), self.history, z.shape[-1]))
        return MemoryState(z, z, torch.zeros_like(z), memory, memory)

    def step(
        self, objective: Objective, state: MemoryState, generator: torch.Generator
    ) -> tuple[MemoryState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        moves, changes = self._remembered(z - state.previous, grad - state.grad, state)
        direction = self._direction(grad, moves, changes)

        def along(t: Tensor, rows: Tensor) -> Tensor:
            return value(objective, z[rows] + t.unsqueeze(-1) * direction[rows])

        empty = (moves[:, -1] == 0).all(-1)
        bracket, used = search_ray(along, loss, self._rules(grad, direction, empty))
        t = bracket.best
        if self.published:
            t = torch.where(t > 0, t, bracket.high)
        new = MemoryState(displaced(z, t, direction), z, grad, moves, changes)
        return new, Info(z, loss, norms(grad), loss, float((1 + used.double()).mean()))

    def _remembered(self, move: Tensor, change: Tensor, state: MemoryState) -> tuple[Tensor, ...]:
        """The memory with the newest pair, for each member, or without it, or empty."""
        product, scale = (move * change).sum(-1), norms(move) * norms(change)
        good = product > (1e-4 if self.published else _CURVATURE) * scale
        # Equal positions: the first step of all, or a line search that found nothing better.
        forgets = ~good if self.published else (move == 0).all(-1)
        good, forgets = good[:, None, None], forgets[:, None, None]
        pairs = ((state.moves, move), (state.changes, change))
        return tuple(
            torch.where(good, torch.cat((old[:, 1:], new.unsqueeze(1)), dim=1), old).masked_fill(
                forgets, 0.0
            )
            for old, new in pairs
        )

    def _direction(self, grad: Tensor, moves: Tensor, changes: Tensor) -> Tensor:
        """Minus the inverse Hessian estimate times the gradient; -grad where that ascends."""
        products = (moves * changes).sum(-1)
        known = products > 0
        weights = torch.where(known, 1 / (products + 1e-6 * self.published), 0.0)
        newest = (changes[:, -1] ** 2).sum(-1)
        scaling = torch.where(known[:, -1], products[:, -1] / newest, 1.0)
        direction, steps = -grad, []
        for k in reversed(range(self.history)):
            step = weights[:, k] * (moves[:, k] * direction).sum(-1)
            direction = direction - step.unsqueeze(-1) * changes[:, k]
            steps.append(step)
        direction = scaling.unsqueeze(-1) * direction
        for k, step in enumerate(reversed(steps)):
            back = weights[:, k] * (changes[:, k] * direction).sum(-1)
            direction = direction + (step - back).unsqueeze(-1) * moves[:, k]
        return descending(direction, grad)

    def _rules(self, grad: Tensor, direction: Tensor, empty: Tensor) -> Rules:
        one = torch.ones_like(grad[:, 0])
        if self.published:
            return Rules(0.2 * one, 4.0, 2.0, 6, 1e-4 / norms(direction), 0.0)
        first = torch.where(empty, cautious(grad), one)
        return Rules(first, 1 + PHI, 1 + PHI, self.trials, 0 * one, self.tolerance)
