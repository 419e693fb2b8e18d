"""How points of a path move down their gradients: three rules that need nothing but gradients."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "n p"]


class Adam:
    """Adam (Kingma & Ba 2015) with its usual constants.

    Args:
        lr: how far each coordinate moves in the first steps.
    """

    def __init__(self, lr: float):
        self._lr, self._count = lr, 0
        self._mean: Any = 0.0
        self._square: Any = 0.0

    def step(self, rows: Rows, grads: Rows) -> Rows:
        """The rows after a step."""
        self._count += 1
        self._mean = 0.9 * self._mean + 0.1 * grads
        self._square = 0.999 * self._square + 0.001 * grads * grads
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        return rows - self._lr * mean / (square.sqrt() + 1e-8)


class Momentum:
    """Gradient descent with momentum, as `torch.optim.SGD` has it."""

    def __init__(self, momentum: float):
        self._momentum = momentum
        self._buffer: Any = None

    def step(self, rows: Rows, grads: Rows, lr: float) -> Rows:
        """The rows after a step of length ``lr``."""
        known = self._buffer
        self._buffer = grads if known is None else self._momentum * known + grads
        return rows - lr * self._buffer


class Adaptive:
    r"""Gradient descent whose steps follow from the gradients themselves, each row by itself.

    A step is :math:`\min(\sqrt{1 + \theta}\, \lambda,\; \|\Delta z\| / 2 \|\Delta g\|)` with the
    last step :math:`\lambda` and the last changes of the row and of its gradient (Malitsky &
    Mishchenko 2020). No row moves farther than it may.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None
        self._step: Any = None
        self._growth: Any = None

    def step(self, rows: Rows, grads: Rows, farthest: float) -> Rows:
        """The rows after a step of at most ``farthest``; without a memory, of a hundredth."""
        norms = torch.linalg.vector_norm(grads, dim=-1, keepdim=True)
        most = farthest / norms.clamp_min(torch.finfo(rows.dtype).tiny)
        if self._before is None or len(self._before[0]) != len(rows):
            step = most / 100
            growth = torch.full_like(step, torch.inf)
        else:
            moved = torch.linalg.vector_norm(rows - self._before[0], dim=-1, keepdim=True)
            turned = torch.linalg.vector_norm(grads - self._before[1], dim=-1, keepdim=True)
            # Where nothing has changed nothing is learnt.
            bound = torch.where(turned > 0, moved / (2 * turned), torch.inf)
            step = torch.minimum((1 + self._growth).sqrt() * self._step, bound)
            step = torch.where((step > 0) & step.isfinite(), step, self._step)
            growth = step / self._step
        step = torch.minimum(step, most)
        self._before, self._step, self._growth = (rows, grads), step, growth
        return rows - step * grads
