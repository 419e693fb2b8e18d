"""BFGS with dense matrices on whole populations, for small dimensions."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from cnognp.method import Info, Traits, norms, require
from cnognp.methods.line_search import cautious, descending, displaced, search_wolfe
from landscape.objective import Objective, value_and_grad

_CURVATURE = 1e-10
# Beyond this length one dense matrix per member is no sensible use of memory.
_LARGEST = 2000


class DenseState(NamedTuple):
    """Where the members are and were, the gradients there, and inverse Hessian estimates (N, p, p).

    ``updates`` (N,) counts what the estimates have learned from.
    """

    position: Tensor
    previous: Tensor
    grad: Tensor
    inverse: Tensor
    updates: Tensor


@dataclass(frozen=True)
class BFGS:
    r"""BFGS with dense matrices and Wolfe line searches, for up to 2000 parameters.

    One step of this method is one iteration. The estimate starts as the identity, is scaled by
    :math:`s^\top y / y^\top y` before its first update (Nocedal & Wright 2006, equations 6.17 and
    6.20), and starts anew where no step was found. The step length satisfies the weak Wolfe
    conditions; the first trial is 1, or :math:`\min(1, 1 / \|g\|_1)` before the first update. The
    loss never rises.

    Args:
        trials: evaluations in a line search at most, at least 1.

    Raises:
        ValueError: if ``trials`` is out of range, or the objective has too many coordinates.
    """

    trials: int = 30
    traits: ClassVar[Traits] = Traits("curvature")

    def __post_init__(self):
        require(self.trials >= 1, "trials", "at least 1", self.trials)

    def init(self, objective: Objective, z: Tensor) -> DenseState:
        n, p = z.shape
        if p > _LARGEST:
            raise ValueError(
                f"BFGS keeps a matrix of {p} x {p} numbers for every member; it is meant for up to "
                f"{_LARGEST} coordinates. Use limited memory, for instance lbfgs-gss"
            )
        identity = torch.eye(p, dtype=z.dtype, device=z.device).expand(n, p, p).clone()
        updates = torch.zeros(n, dtype=torch.int64, device=z.device)
        return DenseState(z, z, torch.zeros_like(z), identity, updates)

    def step(
        self, objective: Objective, state: DenseState, generator: torch.Generator
    ) -> tuple[DenseState, Info]:
        z = state.position
        loss, grad = value_and_grad(objective, z)
        inverse, updates = _updated(z - state.previous, grad - state.grad, state)
        direction = descending(-_times(inverse, grad), grad)

        def along(t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            there, slope = value_and_grad(objective, z[rows] + t.unsqueeze(-1) * direction[rows])
            return there, (slope * direction[rows]).sum(-1)

        first = torch.where(updates > 0, 1.0, cautious(grad))
        slope = (grad * direction).sum(-1)
        t, used = search_wolfe(along, loss, slope, first, self.trials)
        new = DenseState(displaced(z, t, direction), z, grad, inverse, updates)
        return new, Info(z, loss, norms(grad), loss, float((1 + used.double()).mean()))


def _updated(move: Tensor, change: Tensor, state: DenseState) -> tuple[Tensor, Tensor]:
    """The inverse Hessian estimates after a move, and how often each was updated."""
    product = (move * change).sum(-1)
    good = product > _CURVATURE * norms(move) * norms(change)
    weight = torch.where(good, 1 / product, 0.0)
    first = good & (state.updates == 0)
    scale = torch.where(first, product / (change * change).sum(-1), 1.0)
    inverse = scale[:, None, None] * state.inverse
    image = _times(inverse, change)
    factor = weight * (1 + weight * (change * image).sum(-1))
    cross = move.unsqueeze(-1) * image.unsqueeze(-2)
    outer = move.unsqueeze(-1) * move.unsqueeze(-2)
    learned = inverse - weight[:, None, None] * (cross + cross.mT) + factor[:, None, None] * outer
    stuck = (move == 0).all(-1)
    identity = torch.eye(move.shape[-1], dtype=move.dtype, device=move.device)
    inverse = torch.where(good[:, None, None], learned, state.inverse)
    inverse = torch.where(stuck[:, None, None], identity, inverse)
    return inverse, torch.where(stuck, 0, state.updates + good)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    # A single product goes another way, by which a member's last bits would depend on the others.
    pair = (t.expand(max(2, len(t)), *t.shape[1:]) for t in (matrices, vectors.unsqueeze(-1)))
    return torch.matmul(*pair).squeeze(-1)[: len(matrices)]
