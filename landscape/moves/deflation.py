"""Restarts that are kept away from minima which are known already."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.objective import Sum, Term, value_and_grad


@dataclass(frozen=True, eq=False)
class Bumps:
    r"""Bells around points, as an objective.

    :math:`h \sum_j \exp(-\lVert z - c_j\rVert^2 / 2 s^2)`.

    Args:
        centers: (m, p); points that lie twice among them count twice.
        height: of each bell, not negative.
        width: distance at which it is at its steepest, positive.
        mask: (p,), 1 for the coordinates that distances are taken in, 0 for the others; all where
            None.

    Raises:
        ValueError: if a number is out of range.
    """

    centers: Float[Tensor, "m p"]
    height: float
    width: float
    mask: Tensor | None = None

    def __post_init__(self):
        if not (self.height >= 0 and self.width > 0):
            raise ValueError(
                f"height must not be negative and width positive, got {self.height} and "
                f"{self.width}"
            )

    @property
    def dim(self) -> int:
        """The length of a point."""
        return self.centers.shape[1]

    def terms(self) -> Iterator[Term]:
        yield self._value

    def batched_terms(self) -> Iterator[Term]:
        yield self._value

    def _value(self, z: Tensor) -> Tensor:
        total = z.sum(-1) * 0
        for center in self.centers.to(z):
            apart = z - center if self.mask is None else (z - center) * self.mask.to(z)
            total = total + torch.exp(-(apart**2).sum(-1) / (2 * self.width**2))
        return self.height * total


class Restarts(NamedTuple):
    """Where restarts ended.

    Attributes:
        ends: (rounds, p), where each ended.
        loss: (rounds,), there, without bells.
        gradient_norm: (rounds,), likewise.
        label: (rounds,), which of the minima each end is; -1 for what is not finite.
        minima: (m, p), the ends that are new, the first of each.
        found: (m,), the round in which each was found.
    """

    ends: Tensor
    loss: Tensor
    gradient_norm: Tensor
    label: Tensor
    minima: Tensor
    found: Tensor


def restarts(
    objective: Any,
    start: Float[Tensor, " p"] | Callable[[int], Tensor],
    minimise: Callable[[Any, Tensor], Tensor],
    *,
    rounds: int,
    height: float,
    width: float,
    tolerance: float,
    mask: Tensor | None = None,
) -> Restarts:
    """Where minimisation ends, again and again from one start, away from all earlier ends.

    In each round ``minimise`` gets the objective with a bell at every earlier end, and then, from
    where that ended, the objective alone, so that what is told are minima of it. Bells of about
    the depth of a minimum and the size of its basin find most; which those are is seldom known.

    Args:
        objective: over vectors of length p.
        start: (p,), or a function that gives it for each round.
        minimise: from an objective and a point (p,) to a point (p,).
        rounds: how many, at least 1.
        height: of the bells.
        width: of the bells.
        tolerance: distance up to which two ends are one minimum.
        mask: coordinates in which bells keep away, as in `Bumps`: partial persistence.

    Raises:
        ValueError: if a number is out of range.

    Reference: Min (2020), Persistent Neurons; the penalty is that of deflation, since the published
        one is not stated.
    """
    if rounds < 1 or not tolerance > 0:
        raise ValueError(
            f"rounds must be at least 1 and tolerance positive, got {rounds} and {tolerance}"
        )
    ends: list[Tensor] = []
    minima: list[Tensor] = []
    labels, found = [], []
    for number in range(rounds):
        z = start(number) if callable(start) else start
        known = [end for end in ends if bool(end.isfinite().all())]
        if known:
            z = minimise(Sum(objective, Bumps(torch.stack(known), height, width, mask)), z)
        end = minimise(objective, z).detach().clone()
        ends.append(end)
        if not bool(end.isfinite().all()):
            labels.append(-1)
            continue
        near = [k for k, other in enumerate(minima) if float((end - other).norm()) <= tolerance]
        if not near:
            near = [len(minima)]
            minima.append(end)
            found.append(number)
        labels.append(near[0])
    rows = torch.stack(ends)
    loss, grad = value_and_grad(objective, rows)
    return Restarts(
        rows, loss, torch.linalg.vector_norm(grad, dim=-1),
        torch.tensor(labels, device=rows.device),
        torch.stack(minima) if minima else rows[:0], torch.tensor(found, device=rows.device),
    )  # fmt: skip
